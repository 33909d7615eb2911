/*
 * The steps of the protocol, by name, for a test that stops or kills a process at each of them.
 *
 * A step stands behind the action that it names. In the library it is no code at all, and `make same-code` in
 * tests/core shows that. With RF_TEST_STEPS each step leaves its name in a section of its own, from which the test
 * reads the list, and calls the test.
 */
#ifndef RF_STEP_H
#define RF_STEP_H

#ifdef RF_TEST_STEPS

void rf_step_reached(const char *const *step);

#define RF_STEP(name)                                                                     \
    do {                                                                                  \
        static const char *const step_ __attribute__((section("rf_steps"), used)) = name; \
        rf_step_reached(&step_);                                                          \
    } while (0)

#else

#define RF_STEP(name) ((void)0)

#endif
#endif
