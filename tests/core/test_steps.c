/*
 * A process is killed, or stands still, at each step of the protocol by its name.
 *
 * Each scene is gone through twice; every step that its victim passes is then played, at the first
 * and at the second visit, with SIGKILL and with SIGSTOP. The others work on and wait for what
 * they need: it must come within slices that are counted. In the end nothing that was published is
 * lost or doubled, what comes late or again says so, and every slot is free. A step that no scene
 * passes fails the test: whoever names a new one has to show it here.
 */
#include "scenes_replies.h"
#include "steps_owner.h"
#include "steps_producing.h"

typedef struct scene {
    const char *name;
    void (*prepare)(world *); /* in the parent, before the victim attaches */
    void (*operate)(world *); /* by the victim */
    void (*meddle)(const char *step, uint32_t visit);
    void (*helper)(void *);  /* another process, which waits for what the victim does */
    void (*supply)(world *); /* by us, when the victim is gone: what the helper may miss */
    bool needs_victim;       /* the helper does: as long as that stands still it waits, rightly */
    bool once; /* whether a step is passed again depends on how soon the helper ends */
    bool (*play)(uint32_t step, uint32_t visit, int signal); /* play_ring, if not given */
} scene;

static const scene *played;

/* ---- What victims do, beyond scenes.h ------------------------------------------------------- */

static void operate_two_puts(world *now)
{
    work_put(now, now->victim, VICTIM);
    work_put(now, now->victim, VICTIM);
}

/* Pinned, taken and released before the view goes. */
static void operate_set_apart(world *now)
{
    rf_lease *lease;
    if (rf_claim(now->victim, 2, 0, &lease) != RF_OK)
        return;
    rf_set_apart(lease);
    rf_lease_drop(lease);
}

/* Published from another slot: somebody may still write into its own. */
static void operate_publish_copy(world *now)
{
    rf_lease *written, *copy;
    if (rf_claim(now->victim, 1, 0, &written) != RF_OK)
        return;
    set_number(written, 0, VICTIM * NUMBERS);
    if (rf_claim_copy(written, 0, 1, &copy) == RF_OK) {
        if (rf_publish(copy, 1, NULL, 0) == RF_OK)
            atomic_fetch_add(&shared->published[VICTIM * NUMBERS], 1);
        rf_lease_drop(copy);
    }
    rf_set_apart(written);
    rf_lease_drop(written);
}

static void operate_kept_and_take(world *now)
{
    rf_lease *kept = claim(now->victim, 1);
    set_number(kept, 0, VICTIM * NUMBERS);
    CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK);
    atomic_fetch_add(&shared->published[VICTIM * NUMBERS], 1);
    rf_lease *batch = take(now->victim, 1);
    if (batch) {
        mark_taken(batch);
        rf_lease_drop(batch);
    }
    rf_lease_drop(kept);
}

/* Taken by who does not look at the rows: they are there again. */
static void operate_give_back(world *now)
{
    rf_lease *batch = take(now->victim, 3);
    if (!batch)
        return;
    rf_lease_give_back(batch);
    rf_lease_drop(batch);
}

/* Who waits for two is told of one twice. */
static void operate_put_and_give_back(world *now)
{
    work_put(now, now->victim, VICTIM);
    rf_lease *batch = take(now->victim, 1);
    if (!batch)
        return;
    rf_lease_give_back(batch);
    rf_lease_drop(batch);
}

/* For a slice; who waits for a shorter time may find it over before it has said that it waits. */
static void operate_wait_to_take(world *now)
{
    rf_take_request request = {.max_rows = 2, .min_rows = 1, .deadline_ns = RF_FOREVER};
    rf_lease *lease;
    if (rf_take(now->victim, &request, &lease) != RF_OK)
        return;
    mark_taken(lease);
    rf_lease_drop(lease);
}

static void operate_wait_where_many_waited(world *now)
{
    atomic_store(&now->victim->header->planned, 100);
    operate_wait_to_take(now);
}

static void operate_wait_to_claim(world *now)
{
    rf_lease *lease;
    if (rf_claim(now->victim, 1, RF_FOREVER, &lease) == RF_OK)
        rf_lease_drop(lease);
}

static void operate_attach_and_close(world *now)
{
    (void)now;
    close_ring(attach_ring());
}

/* Another finishes the ring between our claim and our second look. */
static void operate_claim_as_it_ends(world *now)
{
    rf_lease *lease;
    CHECK_EQUAL(rf_claim(now->victim, 2, 0, &lease), RF_FINISHED);
}

static void finish_at_the_claim(const char *step, uint32_t visit)
{
    if (strcmp(step, "claim: slot claimed") == 0 && visit == 1)
        atomic_store(&victims_ring->header->finished, 1);
}

/* ---- Helpers -------------------------------------------------------------------------------- */

static void helper_takes_two(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(patient_take(ring, 2, 2), RF_OK);
    close_ring(ring);
}

static void helper_puts_one(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(patient_put(ring, HELPER * NUMBERS), RF_OK);
    close_ring(ring);
}

static void helper_awaits_the_end(void *unused)
{
    (void)unused;
    rf_ring *ring = attach_ring();
    CHECK_EQUAL(patient_end(ring), RF_FINISHED);
    close_ring(ring);
}

static uint32_t count_state(const world *now, rf_state state)
{
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        count += state_of(now->ours, slot) == state;
    return count;
}

static void supply_records(world *now)
{
    for (uint32_t ready = count_state(now, RF_STATE_READY); ready < 2; ready++)
        CHECK_EQUAL(work_put(now, now->ours, OURS), RF_OK);
}

static void supply_room(world *now)
{
    if (count_state(now, RF_STATE_FREE) == 0)
        CHECK(work_take(now, now->ours, 1));
}

/* ---- Beginnings ----------------------------------------------------------------------------- */

/* A participant that died and held every slot: a claim, and records of its own in each state. */
static void die_with_everything(void *argument)
{
    rf_ring *ring = attach_ring();
    for (uint64_t i = 0; i < 2; i++) {
        rf_lease *kept = claim(ring, 1);
        set_number(kept, 0, EARLIER * NUMBERS + i);
        CHECK_EQUAL(rf_publish(kept, 1, NULL, 1), RF_OK);
    }
    CHECK(take(ring, 2) && claim(ring, SLOTS - 2));
    (void)argument;
    raise(SIGKILL);
}

static void a_dead_owner_of_all_slots(world *now)
{
    int status;
    (void)now;
    waitpid(spawn(die_with_everything, NULL), &status, 0);
    CHECK(WIFSIGNALED(status));
    atomic_fetch_add(&shared->published[EARLIER * NUMBERS], 1);
    atomic_fetch_add(&shared->published[EARLIER * NUMBERS + 1], 1);
}

/* ---- Playing -------------------------------------------------------------------------------- */

static void victim_process(void *argument)
{
    world *now = argument;
    now->victim = attach_ring();
    victims_ring = now->victim;
    meddle = played->meddle;
    watched = true;
    played->operate(now);
    watched = false;
    if (now->victim)
        close_ring(now->victim);
}

static pid_t start_helper(const world *now)
{
    pid_t helper = spawn(played->helper, NULL);
    rf_header *header = now->ours->header;
    while (!atomic_load(&header->readable.wanted) && !atomic_load(&header->writable.wanted))
        rest();
    return helper;
}

static void begin(world *now)
{
    memset(now, 0, sizeof *now);
    memset(shared, 0, sizeof *shared);
    now->ours = create_ring(SLOTS);
    now->other = attach_ring();
    if (played->prepare)
        played->prepare(now);
}

/* The others put and take, and wait where they must. */
static void go_on(world *now)
{
    for (int lap = 0; lap < 3; lap++) {
        drain(now);
        if (now->finished)
            return;
        CHECK_EQUAL(patient_put(now->ours, OURS * NUMBERS + now->next[OURS]++), RF_OK);
        CHECK_EQUAL(patient_put(lap % 2 ? now->ours : now->other,
                                (lap % 2 ? OURS * NUMBERS + now->next[OURS]++
                                         : OTHER * NUMBERS + now->next[OTHER]++)),
                    RF_OK);
        CHECK_EQUAL(patient_take(now->ours, 1, 1), RF_OK);
    }
}

static bool all_were_taken(void)
{
    for (size_t number = 0; number < PRODUCERS * NUMBERS; number++)
        if (atomic_load(&shared->published[number]) > atomic_load(&shared->taken[number]))
            return false;
    return true;
}

/* Whoever waits gets every record and every slot of the dead, without asking for a recovery. */
static void get_everything_back(world *now)
{
    rf_lease *claims[SLOTS];
    uint32_t count = 0, rows = 0;
    while (!all_were_taken())
        CHECK_EQUAL(patient_take(now->ours, 2, 1), RF_OK);
    if (now->finished)
        return;
    for (; rows < SLOTS; rows += rf_lease_rows(claims[count++]))
        claims[count] = patient_claim(now->other, SLOTS - rows);
    while (count)
        rf_lease_drop(claims[--count]);
}

/* What is left to the others, and what the helper waits for, comes within slices. */
static void live_on(world *now, pid_t helper, bool reached)
{
    bool killed = reached && armed_signal == SIGKILL;
    if (killed && !helper)
        believe_the_words(now);
    if (played->supply)
        played->supply(now);
    victim_is_gone(now->ours, now->other);
    if (helper)
        expect_success(helper);
    if (killed && helper)
        believe_the_words(now); /* it marks nothing that the victim had in hand */
    if (reached)
        go_on(now);
    if (killed)
        get_everything_back(now);
}

/* True: the step was reached. */
static bool play_ring(uint32_t step, uint32_t visit, int signal)
{
    world now;
    arm(step, visit, signal);
    begin(&now);
    pid_t helper = played->helper ? start_helper(&now) : 0;
    pid_t victim = spawn(victim_process, &now);
    bool reached = await_victim(victim), stands = reached && signal == SIGSTOP;
    now.finished = rf_ring_is_finished(now.ours) != 0;
    if (!(stands && played->needs_victim))
        live_on(&now, helper, reached);
    if (stands) {
        CHECK_EQUAL(kill(victim, SIGCONT), 0);
        expect_success(victim);
        if (played->needs_victim)
            live_on(&now, helper, false);
    }
    end(&now);
    return reached;
}

/* ---- Scenes --------------------------------------------------------------------------------- */

enum { PASSES = 5, TRIES = 24 };

static const scene scenes[] = {
    {"a put", .prepare = two_records, .operate = operate_put},
    {"puts beside a waiting taker", .operate = operate_two_puts, .helper = helper_takes_two,
     .supply = supply_records},
    {"a claim of which some is published", .operate = operate_claim_and_publish},
    {"the same beside a waiting taker", .operate = operate_claim_and_publish,
     .helper = helper_takes_two, .supply = supply_records},
    {"crossed publishing", .operate = operate_crossed_publish},
    {"a kept publish", .operate = operate_kept},
    {"a claim that is set apart for its views", .operate = operate_set_apart},
    {"a claim that is published from another slot", .operate = operate_publish_copy},
    {"a kept record that is released", .operate = operate_kept_and_take},
    {"a take", .prepare = four_records, .operate = operate_take},
    {"a take that is given back", .prepare = four_records, .operate = operate_give_back},
    {"the same beside a taker that waits for more", .operate = operate_put_and_give_back,
     .helper = helper_takes_two, .supply = supply_records},
    {"a take of crossed records", .prepare = crossed_records, .operate = operate_take},
    {"a take beside a waiting producer", .prepare = full_ring, .operate = operate_take,
     .helper = helper_puts_one, .supply = supply_room},
    {"a wait for records", .operate = operate_wait_to_take},
    {"a wait where many waited", .operate = operate_wait_where_many_waited},
    {"a wait for a slot", .prepare = full_ring, .operate = operate_wait_to_claim},
    {"joining and leaving", .operate = operate_attach_and_close},
    {"a recovery", .prepare = a_dead_participant, .operate = operate_recover},
    {"a recovery of every slot", .prepare = a_dead_owner_of_all_slots, .operate = operate_recover},
    {"a finish beside a waiting taker", .operate = operate_finish, .helper = helper_awaits_the_end},
    {"a claim as the ring is finished", .operate = operate_claim_as_it_ends,
     .meddle = finish_at_the_claim, .helper = helper_awaits_the_end, .needs_victim = true},
    {"a producer that comes and leaves", .operate = operate_produce,
     .helper = helper_awaits_the_end, .supply = supply_a_producer, .needs_victim = true},
    {"a producer that fails", .operate = operate_producer_fails, .helper = helper_awaits_any_end,
     .supply = supply_a_producer, .needs_victim = true, .once = true},
    {"the same as another fails", .operate = operate_producer_fails, .meddle = fail_too,
     .helper = helper_awaits_any_end, .supply = supply_a_producer, .needs_victim = true,
     .once = true},
    {"a producer that comes as the ring is finished", .operate = operate_come_as_it_ends,
     .meddle = finish_at_the_door, .helper = helper_awaits_the_end, .supply = supply_a_producer,
     .needs_victim = true, .once = true},
    {"a handle that goes with a block open", .operate = operate_drop_a_block,
     .helper = helper_awaits_the_end, .supply = supply_a_producer, .needs_victim = true,
     .once = true},
    {"a recovery of the last producer", .prepare = a_dead_producer, .operate = operate_recover,
     .supply = expect_the_end},
    {"an owner that closes", .play = play_closing_owner},
    {"noticing that the owner is dead", .play = play_killed_owner},
    {"creating a ring", .play = play_create},
    {"a client that asks, waits and withdraws", .play = play_client},
    {"a client that withdraws what is held", .play = play_withdrawal},
    {"an engine beside a client that sleeps at its cell", .play = play_engine},
    {"an engine whose rows are dropped with it", .play = play_engine_that_drops},
    {"an engine that fails, beside a client that sleeps for all", .play = play_failing_engine},
    {"an engine that gives requests back", .play = play_giving_back},
    {"an engine that hands a request on", .play = play_handing_on},
    {"an engine that leaves with cells held", .play = play_leaving},
    {"a recovery of cells", .play = play_recovery},
    {"a recovery of cells, rows dropped", .play = play_recovery_that_drops},
    {"holding what a dead one held", .play = play_holding_again},
    {"holding what another holds", .play = play_holding_a_twin},
    {"joining a pool that is crowded by a dead one", .play = play_joining_a_crowd},
};

static bool play(uint32_t step, uint32_t visit, int signal)
{
    return (played->play ? played->play : play_ring)(step, visit, signal);
}

static void prepare_stage(void)
{
    shared = shared_memory(sizeof *shared);
    staged = shared_memory(sizeof *staged);
}

/* How often does the scene's victim pass each step? At least and at most: a victim that is kept from a core may pass some
 * once more, or once less. Several passes, so that what one victim in twenty does counts as never done. */
static void pass(const scene *one, uint32_t *least, uint32_t *most)
{
    played = one;
    for (int time = 0; time < PASSES; time++) {
        alarm(WATCHDOG_SECONDS); /* for each scene its own */
        CHECK(!play(NO_STEP, 0, 0));
        for (uint32_t step = 0; step < MAX_STEPS; step++) {
            uint32_t reached = atomic_load(&staged->reached[step]);
            if (time == 0 || reached < least[step])
                least[step] = reached;
            if (time == 0 || reached > most[step])
                most[step] = reached;
        }
    }
}

static void test_every_step_is_passed(void)
{
    uint32_t least[MAX_STEPS], most[MAX_STEPS], total[MAX_STEPS] = {0}, missed = 0,
                                                named = steps_named();
    prepare_stage();
    for (size_t i = 0; i < COUNT(scenes); i++) {
        pass(&scenes[i], least, most);
        for (uint32_t step = 0; step < named; step++)
            total[step] += most[step];
    }
    for (uint32_t step = 0; step < named; step++) {
        for (uint32_t other = 0; other < step; other++)
            CHECK(strcmp(__start_rf_steps[step], __start_rf_steps[other]) != 0);
        if (!total[step])
            dprintf(1, "    no scene passes \"%s\"\n", __start_rf_steps[step]);
        missed += !total[step];
    }
    dprintf(1, "    %u steps, %zu scenes\n", named, COUNT(scenes));
    CHECK_EQUAL(missed, 0);
}

/* In a process of its own, so that where it failed can be told. */
static void play_apart(uint32_t step, uint32_t visit, int signal)
{
    int status, tries = TRIES;
    alarm(WATCHDOG_SECONDS); /* for each play its own */
    pid_t pid = fork();
    if (pid == 0) {
        /* On a busy machine what the victim waits for may come before it has said that it waits. */
        while (!play(step, visit, signal))
            CHECK(--tries);
        exit(PASSED);
    }
    CHECK_EQUAL(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == PASSED)
        return;
    dprintf(1, "    %s: at \"%s\", visit %u\n", played->name, __start_rf_steps[step], visit);
    _exit(FAILED);
}

static void play_all(int signal)
{
    uint32_t visits[MAX_STEPS], most[MAX_STEPS], plays = 0;
    prepare_stage();
    segment_name(0); /* the runner removes what is named after us */
    for (size_t i = 0; i < COUNT(scenes); i++) {
        pass(&scenes[i], visits, most);
        for (uint32_t step = 0; step < steps_named(); step++)
            for (uint32_t visit = 1; visit <= (played->once ? 1u : 2u) && visit <= visits[step];
                 visit++, plays++)
                play_apart(step, visit, signal);
    }
    dprintf(1, "    %u plays; the longest wait took %.1f ms and %u slices, at \"%s\"\n", plays,
            (double)atomic_load(&staged->longest_ns) / NS_PER_MS, atomic_load(&staged->most_slices),
            __start_rf_steps[atomic_load(&staged->longest_step)]);
}

static void test_killed(void)
{
    play_all(SIGKILL);
}

static void test_stopped(void)
{
    play_all(SIGSTOP);
}

/* ---- A taker between the two halves of a new link ------------------------------------------- */

/* The one step at which a record's link names another one already, and its word has no new turn yet. */
#define LINKED_ANEW "publish: link written anew, turn not counted"

static rf_ring *crossed_ring;
static _Atomic uint64_t *crossed_word; /* of the record that is put behind another one */
static uint64_t word_at_the_step;
static uint32_t dead_taker; /* has read the old link, and takes the record there; 0: nobody does */

static void meddle_with_the_link(const char *step, uint32_t visit)
{
    if (strcmp(step, LINKED_ANEW) != 0)
        return;
    CHECK_EQUAL(visit, 1);
    word_at_the_step = atomic_load(crossed_word);
    if (dead_taker)
        atomic_store(crossed_word,
                     rf_word(RF_STATE_TAKEN, dead_taker, rf_word_epoch(word_at_the_step)));
}

static void publish_watched(rf_lease *claimed, uint64_t number)
{
    word_at_the_step = 0;
    crossed_word = &crossed_ring->words[2];
    meddle = meddle_with_the_link;
    watched = true;
    publish(claimed, 1, number);
    watched = false;
    CHECK(word_at_the_step != 0);
}

static void test_an_old_link_takes_nothing(void)
{
    prepare_stage();
    arm(NO_STEP, 0, 0);
    crossed_ring = create_ring(8);
    rf_lease *first = claim(crossed_ring, 2);
    put(crossed_ring, 2);
    uint64_t read_with_the_old_link = word_of(crossed_ring, 2);
    publish_watched(first, 1);
    CHECK_EQUAL(word_at_the_step, read_with_the_old_link);
    CHECK(word_of(crossed_ring, 2) != read_with_the_old_link); /* so its swap fails */
    CHECK_EQUAL(rf_link_slot(atomic_load(&crossed_ring->links[2])), 0);
    close_ring(crossed_ring);
}

static void attach_and_die(void *owner)
{
    *(_Atomic uint32_t *)owner = rf_self(attach_ring());
    raise(SIGKILL);
}

/* It comes again, and what was to go in front of it comes behind another one that comes behind it. */
static void test_no_circle(void)
{
    int status;
    _Atomic uint32_t *owner = shared_memory(sizeof *owner);
    prepare_stage();
    arm(NO_STEP, 0, 0);
    crossed_ring = create_ring(8);
    rf_lease *room = claim(crossed_ring, 1), *second = claim(crossed_ring, 1);
    put(crossed_ring, 1);
    rf_lease_drop(room);
    atomic_store(&crossed_ring->header->claim_cursor, 0);
    rf_lease *third = claim(crossed_ring, 1); /* claimed behind 1, in a slot before `second` */
    atomic_store(&crossed_ring->header->claim_cursor, 3);
    waitpid(spawn(attach_and_die, owner), &status, 0);
    dead_taker = atomic_load(owner);
    publish_watched(second, 2);
    CHECK_EQUAL(rf_recover(crossed_ring), 1);
    publish(third, 1, 3);
    uint32_t rows = 0;
    for (rf_lease *batch; rows < 3; rf_lease_drop(batch)) {
        CHECK((batch = take(crossed_ring, 8)) != NULL);
        rows += rf_lease_rows(batch);
    }
    expect_all_free(crossed_ring);
    close_ring(crossed_ring);
}

static const test tests[] = {
    {"every step that the code names is passed by a scene", test_every_step_is_passed},
    {"a process that is killed at any step loses, doubles and delays nothing", test_killed},
    {"a process that stands still at any step stops nobody, and finds its slots", test_stopped},
    {"a taker that has read a link before it was written anew does not get the record",
     test_an_old_link_takes_nothing},
    {"a record that is taken as its link is written anew, and comes again, makes no circle",
     test_no_circle},
};

MAIN(tests)
