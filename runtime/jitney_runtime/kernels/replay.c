/* A recorded step: the same kernels in the same order on the same memory, without an interpreter in between. */
#include "kernels.h"

/* In the order of KERNELS in library.py. */
enum kernel { LINEAR, RMS_NORM, SILU_MUL, ROTARY, STORE, ATTEND, ADD };

/* One call: the kernel's arguments by kind, each kind in the order of its signature; `threads` is added. */
struct call {
    long kernel;
    void *pointers[5];
    long numbers[5];
    float floats[2];
};

EXPORT void jitney_replay(const struct call *calls, long count, unsigned threads)
{
    for (const struct call *c = calls; c < calls + count; c++) {
        void *const *p = c->pointers;
        const long *n = c->numbers;
        switch ((enum kernel)c->kernel) {
        case LINEAR:
            jitney_linear(p[0], p[1], p[2], p[3], p[4], n[0], n[1], n[2], n[3], threads);
            break;
        case RMS_NORM:
            jitney_rms_norm(p[0], p[1], p[2], n[0], n[1], n[2], n[3], n[4], c->floats[0], c->floats[1], threads);
            break;
        case SILU_MUL:
            jitney_silu_mul(p[0], p[1], n[0], n[1], threads);
            break;
        case ROTARY:
            jitney_rotary(p[0], p[1], p[2], p[3], n[0], n[1], n[2], n[3], n[4], threads);
            break;
        case STORE:
            jitney_store(p[0], p[1], p[2], p[3], n[0], n[1], n[2], n[3], threads);
            break;
        case ATTEND:
            jitney_attend(p[0], p[1], p[2], p[3], n[0], n[1], threads);
            break;
        case ADD:
            jitney_add(p[0], p[1], p[2], n[0], threads);
            break;
        }
    }
}
