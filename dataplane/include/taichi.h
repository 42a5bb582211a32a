/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The data plane's side of Tai Chi, for programs in C that poll.
 *
 * Tell a yielder after every look at the queues whether there was work. After
 * enough empty polls in a row it lends the core to a vCPU, and the call returns
 * when there is work again or the slice is over. Without the firmware below,
 * the same program runs and never yields.
 *
 * A yield lends the core that the calling thread runs on: one yielder per
 * polling thread, used only while the thread is pinned to its DP core, and
 * never by two threads at once. After fork() close it in a child that doesn't
 * poll. taichi_poll() makes no system call and allocates nothing; don't call
 * it with a lock held that others wait for.
 */
#ifndef TAICHI_H
#define TAICHI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What taichi_poll() returns. Later versions may add numbers. */
enum {
	TAICHI_NOT_LENT = -1, /* too few empty polls, nobody to run, or no firmware */
	TAICHI_NOTHING = 0,   /* no vCPU wanted the core any more */
	TAICHI_SLICE = 1,     /* the slice is over */
	TAICHI_INTERRUPT = 2, /* an interrupt for this core is pending or was taken */
	TAICHI_PROBE = 3,     /* work for this core is on its way */
	TAICHI_REFUSED = 4,   /* not a DP core, or vCPUs are parked */
};

struct taichi_yielder;

/*
 * Maps the firmware's pages; needs root. Without the firmware the result is
 * inert, which is no error. On an error returns NULL and writes why, cut to
 * size bytes with the final NUL, to message (which may be NULL).
 */
struct taichi_yielder *taichi_open(char *message, size_t size);

/* Unmaps the pages. Does nothing with NULL. */
void taichi_close(struct taichi_yielder *yielder);

/* Counts a poll; may lend the core. Returns one of the numbers above. */
int32_t taichi_poll(struct taichi_yielder *yielder, bool got_work);

/* Whether there is no firmware, so that taichi_poll() never lends the core. */
bool taichi_is_inert(const struct taichi_yielder *yielder);

/* How often the core was offered to the firmware so far. */
uint64_t taichi_yields(const struct taichi_yielder *yielder);

#ifdef __cplusplus
}
#endif

#endif
