/*
 * Symmetry reduction: spin stores one of all states that differ only by a permutation of processes or slots. spin.py
 * includes this file at the end of pan.c, and replaces each store of a state by a call of store_representative.
 *
 * All producers run the same code and may crash at the same steps (SYMMETRY in segment.pml). The same holds for takers
 * and for slots, and each property is symmetric. An image of a state is the state after exchanges of two producers,
 * two takers or two slots. So a state and its images have the same successors, up to exchanges, and the same errors.
 * The least image is stored for all of them. The search continues from the state itself, so that a trail is a real run.
 *
 * With -DORBITS this file counts the states that each stored state stands for. Their sum is the number of states that a
 * search without symmetry finds. check.py compares the two.
 *
 * It may not know the steps of the protocol: it knows only the variables of ring.pml.
 */
#define PRODUCER_1 1
#define TAKER_1 3
#define RECOVERER 6
enum { OWNER_SHIFT = 3, RECORD_SHIFT = 4, LINK_SHIFT = 4 }; /* segment.pml: WORD, RECORD, LINK */
enum { TYPE_PRODUCER, TYPE_TAKER, TYPE_RECOVERER };         /* the order of the proctypes */

#ifdef BITSTATE
#define STORE b_store
#else
#define STORE h_store
#endif

#define EXCHANGE(array, i, j)                     \
    do {                                          \
        __typeof__((array)[0]) kept = (array)[i]; \
        (array)[i] = (array)[j];                  \
        (array)[j] = kept;                        \
    } while (0)

/* ---- Participants --------------------------------------------------------------------------- */

/* The process of participant `self`. No process is removed before all have ended, so each keeps its pid. */
static P0 *process_of(int self)
{
    static int pid_of[RECOVERER];
    for (int pid = 1; !pid_of[self]; pid++) {
        P0 *process = (P0 *)pptr(pid);
        if ((process->_t == TYPE_PRODUCER || process->_t == TYPE_TAKER) && process->self == self)
            pid_of[self] = pid;
    }
    return (P0 *)pptr(pid_of[self]);
}

static int other(int participant, int first)
{
    return participant == first ? first + 1 : participant == first + 1 ? first : participant;
}

static short word_of_other(short word, int first)
{
    int owner = word >> OWNER_SHIFT & 7;
    return word ^ (owner ^ other(owner, first)) << OWNER_SHIFT;
}

/* Participant `first` and the next one change places. */
static void exchange_participants(int first)
{
    P0 *one = process_of(first), *two = process_of(first + 1);
    int at = one->_p;
    one->_p = two->_p;
    two->_p = at;
    EXCHANGE(now.ended_by, first, first + 1);
    EXCHANGE(now.claimed_by, first, first + 1);
    EXCHANGE(now.moved, first, first + 1);
    EXCHANGE(now.asleep, first, first + 1);
    EXCHANGE(now.overslept, first, first + 1);
    EXCHANGE(now.wish_of, first, first + 1);
    EXCHANGE(now.slot_of, first, first + 1);
    EXCHANGE(now.seen_by, first, first + 1);
    EXCHANGE(now.rest_of, first, first + 1);
    now.crashed = other(now.crashed, first);
    for (int self = 1; self <= RECOVERER; self++)
        now.seen_by[self] = word_of_other(now.seen_by[self], first);
    for (int slot = 0; slot < SLOTS; slot++) {
        now.words[slot] = word_of_other(now.words[slot], first);
        now.reader[slot] = other(now.reader[slot], first);
    }
#if RECORDS
    EXCHANGE(now.before_by, first, first + 1);
    EXCHANGE(now.last_link_of, first, first + 1);
    if (first == PRODUCER_1) {
        EXCHANGE(now.untaken, first, first + 1);
        for (int slot = 0; slot < SLOTS; slot++) {
            int producer = now.payloads[slot] >> RECORD_SHIFT;
            now.payloads[slot] ^= (producer ^ other(producer, first)) << RECORD_SHIFT;
        }
    }
#endif
}

/* ---- Slots ---------------------------------------------------------------------------------- */

#if RECORDS
static void relink(uchar *link, int one, int two)
{
    if (*link && *link >> LINK_SHIFT == one)
        *link ^= (one ^ two) << LINK_SHIFT;
    else if (*link && *link >> LINK_SHIFT == two)
        *link ^= (one ^ two) << LINK_SHIFT;
}
#endif

static void exchange_slots(int one, int two)
{
    EXCHANGE(now.words, one, two);
    EXCHANGE(now.reader, one, two);
    EXCHANGE(now.again, one, two);
    for (int self = 1; self <= RECOVERER; self++) {
        if (now.seen_by[self] && (now.slot_of[self] == one || now.slot_of[self] == two))
            now.slot_of[self] ^= one ^ two;
        if ((now.rest_of[self] >> one ^ now.rest_of[self] >> two) & 1)
            now.rest_of[self] ^= 1 << one | 1 << two;
    }
#if RECORDS
    EXCHANGE(now.links, one, two);
    EXCHANGE(now.payloads, one, two);
    for (int slot = 0; slot < SLOTS; slot++)
        relink(&now.links[slot], one, two);
    for (int self = 1; self <= RECOVERER; self++) {
        relink(&now.last_link_of[self], one, two);
        relink(&now.before_by[self], one, two);
    }
#endif
}

/* ---- The representative --------------------------------------------------------------------- */

static State original, least;
static int any;

static void look_at_image(void)
{
    if (!any++ || memcmp(&now, &least, vsize) < 0)
        memcpy(&least, &now, vsize);
}

/* All variables of a slot, except the slot that its link names. */
static unsigned long said_of(int slot)
{
    unsigned long said = (unsigned long)now.words[slot] << 48 |
                         (unsigned long)now.reader[slot] << 40 |
                         (unsigned long)now.again[slot] << 32;
    for (int self = 1; self <= RECOVERER; self++) {
        said |= (unsigned long)(now.rest_of[self] >> slot & 1) << self;
        said |= (unsigned long)(now.seen_by[self] && now.slot_of[self] == slot) << (8 + self);
    }
#if RECORDS
    said |= (unsigned long)now.payloads[slot] << 16;
#endif
    return said;
}

/* Sort the slots by said_of. Slots with equal values may have different links, so these are tried in each order. */
static void order_slots(void)
{
    for (int last = SLOTS - 1; last > 0; last--)
        for (int slot = 0; slot < last; slot++)
            if (said_of(slot) > said_of(slot + 1))
                exchange_slots(slot, slot + 1);
    look_at_image();
#if RECORDS
    int first_two = SLOTS > 1 && said_of(0) == said_of(1),
        last_two = SLOTS > 2 && said_of(1) == said_of(2);
    for (int turn = 1; turn < (first_two && last_two ? 6 : 1 + (first_two || last_two)); turn++) {
        int slot = first_two && last_two ? turn % 2 : last_two;
        exchange_slots(slot, slot + 1);
        look_at_image();
    }
#endif
}

/* Sort two participants by their next step. If it is the same step, both orders are tried. */
static void order(int first, int count, void (*then)(void))
{
    int ahead = count > 1 ? process_of(first)->_p - process_of(first + 1)->_p : -1;
    if (ahead <= 0)
        then();
    if (ahead >= 0) {
        exchange_participants(first);
        then();
        exchange_participants(first);
    }
}

static void order_takers(void)
{
    order(TAKER_1, TAKERS, order_slots);
}

/* ---- The number of states that a stored state stands for ------------------------------------ */

#ifdef ORBITS
static double stood_for = 1; /* the state before init has started all processes */

/* The number of images: all exchanges, divided by those that lead to the same state. */
static double count_images(void)
{
    int ways = 0, alike = 0;
    for (int producers = 0; producers < PRODUCERS; producers++) {
        for (int takers = 0; takers < TAKERS; takers++) {
            for (int slots = 0; slots < (SLOTS == 3 ? 6 : SLOTS); slots++) {
                ways++;
                alike += memcmp(&now, &original, vsize) == 0;
                if (SLOTS > 1)
                    exchange_slots(slots % (SLOTS - 1), slots % (SLOTS - 1) + 1);
            }
            if (TAKERS > 1)
                exchange_participants(TAKER_1);
        }
        if (PRODUCERS > 1)
            exchange_participants(PRODUCER_1);
    }
    return (double)ways / alike;
}

__attribute__((destructor)) static void say_stood_for(void)
{
    printf("%.0f states stood for\n", stood_for);
}
#endif

int store_representative(void)
{
    if (((P0 *)pptr(now._nr_pr - 1))->_t != TYPE_RECOVERER)
        return STORE((char *)&now, vsize); /* init has not started all processes yet */
    memcpy(&original, &now, vsize);
    any = 0;
    order(PRODUCER_1, PRODUCERS, order_takers);
    memcpy(&now, &least, vsize);
    int known = STORE((char *)&now, vsize);
    memcpy(&now, &original, vsize);
#ifdef ORBITS
    if (!known)
        stood_for += count_images();
#endif
    return known;
}
