#!/usr/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# The first process of the lab's guest: runs /etc/taichi/command with its
# streams on virtio ports, tells its status and switches the machine off.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin HOME=/root TERM=${TERM:-linux}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
hostname taichi
ip link set lo up 2>/dev/null

for module in $(cat /etc/taichi/modules); do
	insmod "/usr/lib/modules/taichi/$module.ko"
done

# Prints the device of the virtio port with this name, once it is there.
port() {
	tries=0
	while [ $tries -lt 3000 ]; do
		for p in /sys/class/virtio-ports/*; do
			if [ "$(cat "$p/name" 2>/dev/null)" = "$1" ]; then
				echo "/dev/${p##*/}"
				return
			fi
		done
		sleep 0.01
		tries=$((tries + 1))
	done
	echo "init: no virtio port $1" >/dev/console
	echo /dev/null
}

exec 9>"$(port taichi.status)"
cd /root || exit 1
if [ -e /etc/taichi/terminal ]; then
	stty -F /dev/hvc0 $(cat /etc/taichi/terminal) 2>/dev/null
	setsid -c /etc/taichi/command </dev/hvc0 >/dev/hvc0 2>&1 9>&-
else
	in=/dev/null
	if [ -e /etc/taichi/input ]; then
		in=$(port taichi.in)
	fi
	/etc/taichi/command <"$in" >"$(port taichi.out)" 2>"$(port taichi.err)" 9>&-
fi
echo $? >&9
poweroff -f
