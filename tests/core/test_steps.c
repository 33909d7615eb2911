/*
 * A process is killed, or stands still, at each step of the protocol that the code names.
 *
 * Each scenario is played PASSES times without a signal, to count how often its victim passes each step. Then
 * each step is played with SIGKILL and with SIGSTOP, at the first and at the second visit. The other processes
 * work on. What they wait for must come within slices that are counted. At the end no published record is lost
 * or doubled, late and redelivered records say so, and every slot is free.
 *
 * A step that no scenario passes fails the test: the author of a new step adds a scenario here.
 */
#include "reply_scenarios.h"
#include "steps_owner.h"
#include "steps_producing.h"
#include "steps_ring.h"

typedef struct scenario {
    const char *name;
    void (*prepare)(ring_fixture *); /* in the parent, before the victim attaches */
    void (*operate)(ring_fixture *); /* by the victim */
    void (*interfere)(const char *step, uint32_t visit);
    void (*helper)(void *);         /* another process, which waits for the victim */
    void (*supply)(ring_fixture *); /* by the parent, for the helper, after the victim is gone */
    bool needs_victim;              /* the helper waits as long as the victim stands still */
    bool once; /* one visit only: the number of visits depends on how soon the helper ends */
    bool (*play)(uint32_t step, uint32_t visit, int signal); /* NULL: play_ring */
} scenario;

static const scenario *played;

/* ---- Playing -------------------------------------------------------------------------------- */

static void victim_process(void *argument)
{
    ring_fixture *now = argument;
    now->victim = attach_ring();
    victims_ring = now->victim;
    interfere = played->interfere;
    watched = true;
    played->operate(now);
    watched = false;
    if (now->victim)
        close_ring(now->victim);
}

static pid_t start_helper(const ring_fixture *now)
{
    pid_t helper = spawn(played->helper, NULL);
    rf_header *header = now->ours->header;
    while (!atomic_load(&header->readable.wanted) && !atomic_load(&header->writable.wanted))
        rest();
    return helper;
}

static void begin(ring_fixture *now)
{
    memset(now, 0, sizeof *now);
    memset(shared, 0, sizeof *shared);
    now->ours = create_ring(SLOTS);
    now->other = attach_ring();
    if (played->prepare)
        played->prepare(now);
}

/* The other participants put and take, and wait where they must. */
static void go_on(ring_fixture *now)
{
    for (int lap = 0; lap < 3; lap++) {
        drain(now);
        if (now->finished)
            return;
        CHECK_EQUAL(bounded_put(now->ours, OURS * NUMBERS + now->next[OURS]++), RF_OK);
        CHECK_EQUAL(bounded_put(lap % 2 ? now->ours : now->other,
                                (lap % 2 ? OURS * NUMBERS + now->next[OURS]++
                                         : OTHER * NUMBERS + now->next[OTHER]++)),
                    RF_OK);
        CHECK_EQUAL(bounded_take(now->ours, 1, 1), RF_OK);
    }
}

static bool all_were_taken(void)
{
    for (size_t number = 0; number < PRODUCERS * NUMBERS; number++)
        if (atomic_load(&shared->published[number]) > atomic_load(&shared->taken[number]))
            return false;
    return true;
}

/* A process that waits gets every record and every slot of the dead process, without a call of rf_recover. */
static void get_everything_back(ring_fixture *now)
{
    rf_lease *claims[SLOTS];
    uint32_t count = 0, rows = 0;
    while (!all_were_taken())
        CHECK_EQUAL(bounded_take(now->ours, 2, 1), RF_OK);
    if (now->finished)
        return;
    for (; rows < SLOTS; rows += rf_lease_rows(claims[count++]))
        claims[count] = bounded_claim(now->other, SLOTS - rows);
    while (count)
        rf_lease_drop(claims[--count]);
}

/* The remaining participants and the helper get what they wait for within MOST_SLICES slices. */
static void live_on(ring_fixture *now, pid_t helper, bool reached)
{
    bool killed = reached && armed_signal == SIGKILL;
    if (killed && !helper)
        reconcile_with_words(now);
    if (played->supply)
        played->supply(now);
    victim_is_gone(now->ours, now->other);
    if (helper)
        expect_success(helper);
    if (killed && helper)
        reconcile_with_words(now); /* the helper marks no record that the victim held */
    if (reached)
        go_on(now);
    if (killed)
        get_everything_back(now);
}

/* Return true if the victim reached the step. */
static bool play_ring(uint32_t step, uint32_t visit, int signal)
{
    ring_fixture now;
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

static const scenario scenarios[] = {
    {"a put", .prepare = two_records, .operate = operate_put},
    {"puts beside a waiting taker", .operate = operate_two_puts, .helper = helper_takes_two,
     .supply = supply_records},
    {"a claim of which some rows are published", .operate = operate_claim_and_publish},
    {"a claim of which some rows are published, beside a waiting taker",
     .operate = operate_claim_and_publish, .helper = helper_takes_two, .supply = supply_records},
    {"crossed publishing", .operate = operate_crossed_publish},
    {"a kept publish", .operate = operate_kept},
    {"a claim that is set apart for its views", .operate = operate_set_apart},
    {"a claim that is published from another slot", .operate = operate_publish_copy},
    {"a kept record that is released", .operate = operate_kept_and_take},
    {"a take", .prepare = four_records, .operate = operate_take},
    {"a take that is given back", .prepare = four_records, .operate = operate_give_back},
    {"a take that is given back, beside a taker that waits for more",
     .operate = operate_put_and_give_back, .helper = helper_takes_two, .supply = supply_records},
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
     .interfere = finish_at_the_claim, .helper = helper_awaits_the_end, .needs_victim = true},
    {"a producer that enters and leaves", .operate = operate_produce,
     .helper = helper_awaits_the_end, .supply = supply_a_producer, .needs_victim = true},
    {"a producer that fails", .operate = operate_producer_fails, .helper = helper_awaits_any_end,
     .supply = supply_a_producer, .needs_victim = true, .once = true},
    {"a producer that fails while another one fails", .operate = operate_producer_fails,
     .interfere = fail_too, .helper = helper_awaits_any_end, .supply = supply_a_producer,
     .needs_victim = true, .once = true},
    {"a producer that enters as the ring is finished", .operate = operate_come_as_it_ends,
     .interfere = finish_before_entering, .helper = helper_awaits_the_end,
     .supply = supply_a_producer, .needs_victim = true, .once = true},
    {"a handle that is dropped with a block open", .operate = operate_drop_a_block,
     .helper = helper_awaits_the_end, .supply = supply_a_producer, .needs_victim = true,
     .once = true},
    {"a recovery of the last producer", .prepare = a_dead_producer, .operate = operate_recover,
     .supply = expect_the_end},
    {"an owner that closes", .play = play_closing_owner},
    {"detecting that the owner is dead", .play = play_killed_owner},
    {"creating a ring", .play = play_create},
    {"a client that asks, waits and withdraws", .play = play_client},
    {"a client that withdraws a held request", .play = play_withdrawal},
    {"an engine beside a client that sleeps at its cell", .play = play_engine},
    {"an engine whose rows are dropped with it", .play = play_engine_that_drops},
    {"an engine that fails, beside a client that sleeps for all", .play = play_failing_engine},
    {"an engine that gives requests back", .play = play_giving_back},
    {"an engine that hands a request on", .play = play_handing_on},
    {"an engine that leaves with cells held", .play = play_leaving},
    {"a recovery of cells", .play = play_recovery},
    {"a recovery of cells whose rows are dropped", .play = play_recovery_that_drops},
    {"holding a cell that a dead engine held", .play = play_holding_again},
    {"holding a cell that another engine holds", .play = play_holding_a_twin},
    {"joining a pool that a dead participant fills", .play = play_joining_full_pool},
};

static bool play(uint32_t step, uint32_t visit, int signal)
{
    return (played->play ? played->play : play_ring)(step, visit, signal);
}

/* Count how often the scenario's victim passes each step, at least and at most, in several passes. A
 * preempted victim may pass a step once more or once less. */
static void pass(const scenario *one, uint32_t *least, uint32_t *most)
{
    played = one;
    for (int time = 0; time < PASSES; time++) {
        alarm(WATCHDOG_SECONDS); /* each pass has its own */
        CHECK(!play(NO_STEP, 0, 0));
        for (uint32_t step = 0; step < MAX_STEPS; step++) {
            uint32_t reached = atomic_load(&recorded->reached[step]);
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
    for (size_t i = 0; i < COUNT(scenarios); i++) {
        pass(&scenarios[i], least, most);
        for (uint32_t step = 0; step < named; step++)
            total[step] += most[step];
    }
    for (uint32_t step = 0; step < named; step++) {
        for (uint32_t other = 0; other < step; other++)
            CHECK(strcmp(__start_rf_steps[step], __start_rf_steps[other]) != 0);
        if (!total[step])
            dprintf(1, "    no scenario passes \"%s\"\n", __start_rf_steps[step]);
        missed += !total[step];
    }
    dprintf(1, "    %u steps, %zu scenarios\n", named, COUNT(scenarios));
    CHECK_EQUAL(missed, 0);
}

/* Each play runs in its own process, so that a failure is reported with its step. */
static void play_apart(uint32_t step, uint32_t visit, int signal)
{
    int status, tries = TRIES;
    alarm(WATCHDOG_SECONDS); /* each play has its own */
    pid_t pid = fork();
    if (pid == 0) {
        /* On a busy machine a wake-up may come before the victim has registered as waiting. */
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
    segment_name(0); /* the runner removes segments with this process's name */
    for (size_t i = 0; i < COUNT(scenarios); i++) {
        pass(&scenarios[i], visits, most);
        for (uint32_t step = 0; step < steps_named(); step++)
            for (uint32_t visit = 1; visit <= (played->once ? 1u : 2u) && visit <= visits[step];
                 visit++, plays++)
                play_apart(step, visit, signal);
    }
    dprintf(1, "    %u plays; the longest wait took %.1f ms and %u slices, at \"%s\"\n", plays,
            (double)atomic_load(&recorded->longest_ns) / NS_PER_MS,
            atomic_load(&recorded->most_slices),
            __start_rf_steps[atomic_load(&recorded->longest_step)]);
}

static void test_killed(void)
{
    play_all(SIGKILL);
}

static void test_stopped(void)
{
    play_all(SIGSTOP);
}

static const test tests[] = {
    {"every step that the code names is passed by a scenario", test_every_step_is_passed},
    {"a process that is killed at any step loses, doubles and delays nothing", test_killed},
    {"a process that stands still at any step stops no other process, and finds its slots",
     test_stopped},
};

MAIN(tests)
