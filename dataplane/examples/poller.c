/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * The smallest poller in C: nothing ever arrives, so the core is lent whenever
 * a vCPU wants it. Usage: poller [POLLS], pinned to a DP core (taskset -c).
 *
 * cargo build --release -p taichi-dataplane
 * cc -O2 -Idataplane/include dataplane/examples/poller.c \
 *    target/release/libtaichi_dataplane.a -lpthread -ldl -lm -o poller
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "taichi.h"

static bool take_packets(void)
{
	return false; /* rte_eth_rx_burst() > 0, for one */
}

int main(int argc, char **argv)
{
	uint64_t polls = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
	char why[256];
	struct taichi_yielder *yielder = taichi_open(why, sizeof(why));

	if (!yielder) {
		fprintf(stderr, "poller: %s\n", why);
		return 1;
	}
	if (taichi_is_inert(yielder))
		puts("no firmware: never yields");
	for (uint64_t n = 0; n < polls; n++)
		taichi_poll(yielder, take_packets());
	printf("%" PRIu64 " polls, %" PRIu64 " yields\n", polls, taichi_yields(yielder));
	taichi_close(yielder);
	return 0;
}
