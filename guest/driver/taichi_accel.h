/* SPDX-License-Identifier: GPL-2.0 OR MIT */
/*
 * The interface of /dev/taichi-accel, a driver without a device. It stands for
 * an accelerator's driver: it takes a lock and, with the lock held, gives a
 * slow device one command after the other, polling all the time.
 *
 * Times are ticks of the system counter (CNTVCT_EL0), which all CPUs share.
 */
#ifndef TAICHI_ACCEL_H
#define TAICHI_ACCEL_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* Devices; each has a lock of every kind, independent of one another. */
#define TAICHI_ACCEL_DEVICES 8

/*
 * Kinds of lock. With PREEMPT_RT the first two are mutexes that leave
 * preemption and interrupts on; the others are the same on all kernels.
 */
#define TAICHI_ACCEL_SPIN 0 /* spin_lock */
#define TAICHI_ACCEL_SPIN_IRQSAVE 1 /* spin_lock_irqsave */
#define TAICHI_ACCEL_RAW_SPIN 2 /* raw_spin_lock: spins on every kernel */
#define TAICHI_ACCEL_MUTEX 3 /* mutex_lock, then preempt_disable */
#define TAICHI_ACCEL_NONE 4 /* no lock: breaks what the others keep */
#define TAICHI_ACCEL_KINDS 5

/* Counts of the times between two looks at the device, by length. */
#define TAICHI_ACCEL_GAPS 64

/* The longest section that is accepted, in seconds of the counter. */
#define TAICHI_ACCEL_LONGEST 2

/* One section: what is asked for, and what came of it. */
struct taichi_accel_section {
	/* In: which device, below TAICHI_ACCEL_DEVICES. */
	__u32 device;
	/* In: which of its locks, TAICHI_ACCEL_SPIN and so on. */
	__u32 kind;
	/* In: commands given one after the other. */
	__u64 commands;
	/*
	 * In: ticks that the device needs for one, at least 1. It has one
	 * command in work and one in hand, so a section lasts commands *
	 * command_ticks, and longer by each time for which its CPU had no core,
	 * if that was longer than a command.
	 */
	__u64 command_ticks;
	/* Out: this was the lock's n-th section, from 0. */
	__u64 serial;
	/* Out: when the lock was asked for. */
	__u64 asked;
	/* Out: when it was held, and the first command was given. */
	__u64 acquired;
	/* Out: when the last command was done, just before the unlock. */
	__u64 released;
	/* Out: the longest between two looks at the device. */
	__u64 longest_gap;
	/* Out: the CPUs on which it asked, and on which the section ended. */
	__u32 first_cpu;
	__u32 last_cpu;
	/*
	 * Out: how often the CPU did not look for how long. gaps[n] counts from
	 * (4 + n % 4) << (n / 4 + 2) ticks, the first is 16, up to the next; the
	 * last one all that are longer.
	 */
	__u32 gaps[TAICHI_ACCEL_GAPS];
};

/* What a lock has seen since the module was loaded. */
struct taichi_accel_totals {
	/* In: as above. */
	__u32 device;
	__u32 kind;
	/* Out: sections that ended. */
	__u64 sections;
	/*
	 * Out: sections that found another one inside: 0, or the lock is broken.
	 */
	__u64 overlaps;
};

/*
 * Runs a section. Errors: EINVAL for a device, kind or length out of range,
 * EFAULT for a bad address.
 */
#define TAICHI_ACCEL_PROGRAM _IOWR(0xb4, 1, struct taichi_accel_section)

/*
 * Reads a lock's totals. Sections that run meanwhile may be in them or not.
 * Errors as above.
 */
#define TAICHI_ACCEL_TOTALS _IOWR(0xb4, 2, struct taichi_accel_totals)

#endif
