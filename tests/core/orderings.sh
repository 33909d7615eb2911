#!/bin/sh
# Check that each labelled ordering is needed, and that its loss is noticed.
#
# In a copy of the core the script weakens one label after the other to relaxed. ThreadSanitizer must then report a race.
# It follows C11's happens-before, and not the order of this machine. It does not follow fences, or orders between atomics
# alone. csrc/model/ and docs/design/memory-orderings.md cover these.
#
#     orderings.sh FOLDER       works in FOLDER; run by `make orderings`
set -u
cd "$(dirname "$0")" || exit 1
work=$1
core=$work/core
missed=0

# Build the core with one change and run the test that should notice it. $1: files, $2: lines, $3: sed commands
weaken() {
    rm -rf "$core" && mkdir -p "$core" && cp -r ../../csrc/*/ "$core"
    for file in $1; do
        sed -i "$2 { $3 }" "$core/$file"
    done
    "${MAKE:-make}" -s tsan CORE="$core" BUILD="$work/" ONLY=test_orderings \
        RF_CFLAGS="-include $work/relaxed.h" >"$work/output" 2>&1
}

# Succeed if each file of the copy differs from the core's.
all_weakened() {
    for file in $1; do
        ! cmp -s "$core/$file" "../../csrc/$file" || return
    done
}

# $1: the label; the other arguments as above
expect_race() {
    label=$1
    shift
    weaken "$@"
    if ! all_weakened "$1"; then
        echo "FAILED  $label: no line was weakened in one of: $1"
    elif grep -q 'data race' "$work/output"; then
        echo "ok      $label: without it there is a race"
        return
    else
        echo "FAILED  $label: weakened in $1, and no race was reported"
    fi
    missed=$((missed + 1))
}

mkdir -p "$work"
cat >"$work/relaxed.h" <<'END'
#define rf_cas_relaxed(word, expected, desired) \
    (__extension__({ uint64_t was = (expected); atomic_compare_exchange_strong_explicit( \
        (word), &was, (desired), memory_order_relaxed, memory_order_relaxed); }))
#define rf_sub_relaxed(p, v) atomic_fetch_sub_explicit((p), (v), memory_order_relaxed)
END
if weaken "" "" ""; then
    echo "ok      unchanged, there is no race"
else
    cat "$work/output"
    exit 1
fi
cas='s/rf_cas_\(release\|acquire\|acq_rel\)/rf_cas_relaxed/; s/rf_load_acquire/rf_load_relaxed/'
expect_race R1 ring/publish.c '/^static inline bool ready_slot(/,/^}/' "$cas"
expect_race A1 'ring/find.c ring/take.c' '1,$' "$cas" # both finding the run and taking each slot use acquire
expect_race R2 ring/release.c '/^static void release_rows(/,/^}/' "$cas"
expect_race A2 ring/claim.c '/^static uint64_t claim_slot(/,/^}/' "$cas"
expect_race R12 replies/engine_side.c '/^static bool hand_over(/,/^}/' "$cas"
expect_race A12 replies/client_side.c '/^static rf_status read_word(/,/^}/' "$cas"
expect_race R17 ring/producers.c '/^void rf_producing_fail(/,/^}/' "$cas"
expect_race A17 ring/producers.c '/^uint32_t rf_ring_failure(/,/^}/' "$cas"
expect_race 'the last reference' ring/lease.c '/^void rf_lease_drop(/,/^}/' 's/rf_sub_acq_rel/rf_sub_relaxed/'
[ "$missed" -eq 0 ]
