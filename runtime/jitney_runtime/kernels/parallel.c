/* Threads that help and are never waited for before they have begun.
 *
 * A step has hundreds of kernels. With a barrier after each, one thread that the system has put aside, for a web request or a neighbour on
 * the node, holds the others up for its whole time slice, again and again: on two cores of which one was taken a step took 20 times as long.
 * Here the caller does all the work that no helper has taken, and waits only for those that are in the middle of an item.
 */
#define _GNU_SOURCE
#include "kernels.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_THREADS 64
/* Looks before a thread stops spinning: some 100 us, longer than the gap between two kernels of a recorded step. */
#define PATIENCE 2000
/* Of them, from one at which whoever waits for this core may have it to the next: between two items nobody waits for a helper. */
#define BETWEEN 32

/* The items of one thread, on a cache line of its own because others take from it too. */
struct part {
    _Alignas(64) atomic_long next;
    long end;
};

/* The work that is open. Written by the caller who holds `caller`, and only while no helper is inside. */
static struct {
    void (*item)(const void *, long);
    const void *job;
    unsigned threads;
    struct part parts[MOST_THREADS];
} work;

/* Odd while the work is open. */
static _Atomic uint32_t epoch;
static atomic_uint inside, asleep;
static pthread_mutex_t caller = PTHREAD_MUTEX_INITIALIZER;
static unsigned helpers;

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* First one's own part in order, whose next item is being fetched into the cache; then what others have left. */
static void take_items(unsigned me)
{
    for (unsigned turn = 0; turn < work.threads; turn++) {
        struct part *part = &work.parts[(me + turn) % work.threads];
        for (long item; (item = atomic_fetch_add_explicit(&part->next, 1, memory_order_relaxed)) < part->end;)
            work.item(work.job, item);
    }
}

static uint32_t next_epoch(uint32_t seen)
{
    for (int look = 0; look < PATIENCE; look++) {
        uint32_t now = atomic_load(&epoch);
        if (now != seen)
            return now;
        if (look % BETWEEN == BETWEEN - 1)
            sched_yield();
        else
            pause_briefly();
    }
    atomic_fetch_add(&asleep, 1);
    while (atomic_load(&epoch) == seen)
        syscall(SYS_futex, &epoch, FUTEX_WAIT_PRIVATE, seen, 0, 0, 0);
    atomic_fetch_sub(&asleep, 1);
    return atomic_load(&epoch);
}

static void *help(void *number)
{
    unsigned me = (unsigned)(uintptr_t)number;
    for (uint32_t seen = 0;;) {
        seen = next_epoch(seen);
        if (seen % 2 == 0)
            continue;
        /* Announced first and checked afterwards: either this sees that the work is closed, or the caller sees this inside. */
        atomic_fetch_add(&inside, 1);
        if (atomic_load(&epoch) == seen && me < work.threads)
            take_items(me);
        atomic_fetch_sub(&inside, 1);
    }
    return 0;
}

static void hire(unsigned wanted)
{
    if (helpers >= wanted)
        return;
    sigset_t all, before;
    sigfillset(&all);
    /* Signals are for Python's threads. */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (; helpers < wanted; helpers++) {
        pthread_t thread;
        if (pthread_create(&thread, 0, help, (void *)(uintptr_t)(helpers + 1)))
            break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

void parallel_for(void (*item)(const void *, long), const void *job, long items, unsigned threads)
{
    if (threads > MOST_THREADS)
        threads = MOST_THREADS;
    /* Somebody else's kernel has the helpers: this one goes without. */
    if (threads < 2 || items < 2 || pthread_mutex_trylock(&caller)) {
        for (long i = 0; i < items; i++)
            item(job, i);
        return;
    }
    hire(threads - 1);
    work.item = item;
    work.job = job;
    work.threads = threads;
    for (unsigned part = 0; part < threads; part++) {
        atomic_store_explicit(&work.parts[part].next, items * part / threads, memory_order_relaxed);
        work.parts[part].end = items * (part + 1) / threads;
    }
    atomic_fetch_add(&epoch, 1);
    if (atomic_load(&asleep))
        syscall(SYS_futex, &epoch, FUTEX_WAKE_PRIVATE, MOST_THREADS, 0, 0, 0);
    take_items(0);
    atomic_fetch_add(&epoch, 1);
    for (int look = 0; atomic_load(&inside); look++)
        if (look < PATIENCE)
            pause_briefly();
        else
            sched_yield();
    pthread_mutex_unlock(&caller);
}

/* Floats in one vector of this build. */
EXPORT long jitney_width(void) { return WIDTH; }
