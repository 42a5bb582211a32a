// SPDX-License-Identifier: GPL-2.0 OR MIT
/*
 * A test driver that holds locks: see taichi_accel.h for what it stands for.
 */
#include <linux/fs.h>
#include <linux/log2.h>
#include <linux/minmax.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include <asm/arch_timer.h>
#include <asm/barrier.h>
#include <asm/sysreg.h>

#include "taichi_accel.h"

/* One lock of one device. Only the one of its kind is used. */
struct unit {
	spinlock_t spin;
	raw_spinlock_t raw;
	struct mutex mutex;
	/*
	 * Plain, so that they come out wrong where the lock lets two in:
	 * read when a section begins, written when it ends.
	 */
	u64 sections;
	u64 overlaps;
	bool inside;
};

static struct unit units[TAICHI_ACCEL_DEVICES][TAICHI_ACCEL_KINDS];

/* The slow device's status register. */
static u64 counter(void)
{
	isb();
	return read_sysreg(cntvct_el0);
}

static unsigned long lock(struct unit *unit, u32 kind)
{
	unsigned long flags = 0;

	switch (kind) {
	case TAICHI_ACCEL_SPIN:
		spin_lock(&unit->spin);
		break;
	case TAICHI_ACCEL_SPIN_IRQSAVE:
		spin_lock_irqsave(&unit->spin, flags);
		break;
	case TAICHI_ACCEL_RAW_SPIN:
		raw_spin_lock(&unit->raw);
		break;
	case TAICHI_ACCEL_MUTEX:
		mutex_lock(&unit->mutex);
		preempt_disable();
		break;
	}
	return flags;
}

static void unlock(struct unit *unit, u32 kind, unsigned long flags)
{
	switch (kind) {
	case TAICHI_ACCEL_SPIN:
		spin_unlock(&unit->spin);
		break;
	case TAICHI_ACCEL_SPIN_IRQSAVE:
		spin_unlock_irqrestore(&unit->spin, flags);
		break;
	case TAICHI_ACCEL_RAW_SPIN:
		raw_spin_unlock(&unit->raw);
		break;
	case TAICHI_ACCEL_MUTEX:
		preempt_enable();
		mutex_unlock(&unit->mutex);
		break;
	}
}

/* Counts a time between two looks, four steps to a doubling. */
static void note(struct taichi_accel_section *section, u64 gap)
{
	unsigned int power, n;

	section->longest_gap = max(section->longest_gap, gap);
	if (gap < 16)
		return;
	power = ilog2(gap);
	n = 4 * (power - 4) + ((gap >> (power - 2)) & 3);
	section->gaps[min(n, TAICHI_ACCEL_GAPS - 1u)]++;
}

/*
 * Keeps the device in work and polls until the last command is done. While it
 * does one it has the next one already; seen late by more than a command, it
 * has stood still.
 */
static void drive(struct taichi_accel_section *section)
{
	u64 now = counter();
	u64 done = now;
	u64 n;

	section->acquired = now;
	for (n = 0; n < section->commands; n++) {
		bool in_time = now - done < section->command_ticks;

		done = (in_time ? done : now) + section->command_ticks;
		while (now < done) {
			u64 then = now;

			now = counter();
			note(section, now - then);
		}
	}
	section->released = now;
}

static void program(struct unit *unit, struct taichi_accel_section *section)
{
	unsigned long flags;
	u64 serial;

	section->longest_gap = 0;
	memset(section->gaps, 0, sizeof(section->gaps));
	section->first_cpu = raw_smp_processor_id();
	section->asked = counter();
	flags = lock(unit, section->kind);

	if (READ_ONCE(unit->inside))
		unit->overlaps++;
	WRITE_ONCE(unit->inside, true);
	serial = READ_ONCE(unit->sections);
	drive(section);
	section->serial = serial;
	section->last_cpu = raw_smp_processor_id();
	WRITE_ONCE(unit->sections, serial + 1);
	WRITE_ONCE(unit->inside, false);

	unlock(unit, section->kind, flags);
}

static struct unit *find(u32 device, u32 kind)
{
	if (device >= TAICHI_ACCEL_DEVICES || kind >= TAICHI_ACCEL_KINDS)
		return NULL;
	return &units[device][kind];
}

/* Whether a section ends soon enough, and can be counted, to be let in. */
static bool bounded(const struct taichi_accel_section *section)
{
	u64 most = (u64)TAICHI_ACCEL_LONGEST * arch_timer_get_cntfrq();

	return section->command_ticks &&
	       section->commands <= most / section->command_ticks;
}

static long do_program(void __user *user)
{
	struct taichi_accel_section section;
	struct unit *unit;

	if (copy_from_user(&section, user, sizeof(section)))
		return -EFAULT;
	unit = find(section.device, section.kind);
	if (!unit || !bounded(&section))
		return -EINVAL;
	program(unit, &section);
	return copy_to_user(user, &section, sizeof(section)) ? -EFAULT : 0;
}

static long do_totals(void __user *user)
{
	struct taichi_accel_totals totals;
	struct unit *unit;

	if (copy_from_user(&totals, user, sizeof(totals)))
		return -EFAULT;
	unit = find(totals.device, totals.kind);
	if (!unit)
		return -EINVAL;
	totals.sections = READ_ONCE(unit->sections);
	totals.overlaps = READ_ONCE(unit->overlaps);
	return copy_to_user(user, &totals, sizeof(totals)) ? -EFAULT : 0;
}

static long accel_ioctl(struct file *file, unsigned int request,
			unsigned long argument)
{
	void __user *user = (void __user *)argument;

	switch (request) {
	case TAICHI_ACCEL_PROGRAM:
		return do_program(user);
	case TAICHI_ACCEL_TOTALS:
		return do_totals(user);
	}
	return -ENOTTY;
}

static const struct file_operations operations = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
	.unlocked_ioctl = accel_ioctl,
};

static struct miscdevice accel = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "taichi-accel",
	.fops = &operations,
	.mode = 0600,
};

static int __init accel_init(void)
{
	unsigned int device, kind;

	for (device = 0; device < TAICHI_ACCEL_DEVICES; device++) {
		for (kind = 0; kind < TAICHI_ACCEL_KINDS; kind++) {
			struct unit *unit = &units[device][kind];

			spin_lock_init(&unit->spin);
			raw_spin_lock_init(&unit->raw);
			mutex_init(&unit->mutex);
		}
	}
	return misc_register(&accel);
}

static void __exit accel_exit(void)
{
	misc_deregister(&accel);
}

module_init(accel_init);
module_exit(accel_exit);

MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Holds locks while it programs a slow device that isn't there");
