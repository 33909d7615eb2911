#!/bin/sh
# Run test programs one after the other and add up the results of their tests.
# $1: a command under which each program runs, or nothing. The other arguments: programs.
under=$1
shift
passed=0 failed=0 skipped=0 flavour=
output=$(mktemp) || exit 1
trap 'rm -f "$output"' EXIT
for program; do
    folder=$(basename "$(dirname "$program")")
    [ "$folder" = "$flavour" ] || echo "== ${folder#core-}"
    flavour=$folder
    echo "$(basename "$program")"
    $under "$program" >"$output" 2>&1
    status=$?
    sed 's/^/  /' "$output"
    passed=$((passed + $(grep -c '^ok ' "$output")))
    skipped=$((skipped + $(grep -c '^skipped ' "$output")))
    reported=$(grep -c '^FAILED ' "$output")
    failed=$((failed + reported))
    # The program failed without reporting which test failed.
    if [ "$status" -ne 0 ] && [ "$status" -ne 77 ] && [ "$reported" -eq 0 ]; then
        echo "  $program exited with $status"
        failed=$((failed + 1))
    fi
done
line="$passed passed, $failed failed"
[ "$skipped" -eq 0 ] || line="$line, $skipped skipped"
echo "$line"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
