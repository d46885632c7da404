/* libgomp's entry points, handed over by the loader: the pool is the one that torch uses, so that its threads are warm and never too many. */
#include "kernels.h"

static void (*enter)(void (*)(void *), void *, unsigned, unsigned);
static int (*number)(void);

EXPORT void jitney_threads(void *parallel, void *thread_number)
{
    enter = (void (*)(void (*)(void *), void *, unsigned, unsigned))parallel;
    number = (int (*)(void))thread_number;
}

/* Floats in one vector of this build. */
EXPORT long jitney_width(void) { return WIDTH; }

void fork_join(void (*body)(void *), void *argument, unsigned threads)
{
    if (threads > 1)
        enter(body, argument, threads, 0);
    else
        body(argument);
}

unsigned thread(void) { return (unsigned)number(); }
