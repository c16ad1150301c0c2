#!/usr/bin/env bash
# The first process of a node, in namespaces of its own: gives it a root file system, then reaps.
#   boot.sh NAME DISK FOLDER...
# DISK is what of the node outlives it; FOLDERs are to be seen there as they are here. The root is the
# machine's own, on which nothing that the node writes arrives.
set -euo pipefail
name=$1 disk=$2
shift 2

hostname "$name"
ip link set lo up
mount --make-rprivate /
mkdir -p "$disk"/{root,kubelet,containerd,cni,cni-programs,cni-networks,troth,pods,containers}
mount -t tmpfs -o mode=755 node "$disk/root"
mkdir "$disk"/root/{upper,work,new}
root=$disk/root/new
mount -t overlay -o "lowerdir=/,upperdir=$disk/root/upper,workdir=$disk/root/work" root "$root"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"

# Inside of a cgroup namespace each hierarchy shows the node's own part.
mount -t tmpfs -o mode=755 cgroup "$root/sys/fs/cgroup"
while IFS=: read -r _ controllers _; do
  case $controllers in
    '') continue ;;
    name=*) place=${controllers#name=} options=none,$controllers ;;
    *) place=$controllers options=$controllers ;;
  esac
  mkdir "$root/sys/fs/cgroup/$place"
  mount -t cgroup -o "$options" cgroup "$root/sys/fs/cgroup/$place"
done </proc/self/cgroup

for folder in "$@"; do
  mkdir -p "$root$folder"
  mount --bind "$folder" "$root$folder"
done
bind() { mkdir -p "$root$2" && mount --bind "$disk/$1" "$root$2"; }
bind kubelet /var/lib/kubelet
bind containerd /var/lib/containerd
bind cni /var/lib/cni
bind cni-programs /opt/cni/bin
bind cni-networks /etc/cni/net.d
bind troth /var/lib/troth
bind pods /var/log/pods
bind containers /var/log/containers

mkdir -p "$root/run/lock" "$root/run/netns"
# There are no name servers; asking one ends at once.
rm -f "$root/etc/resolv.conf"
echo nameserver 127.0.0.1 >"$root/etc/resolv.conf"
printf '127.0.0.1 localhost %s\n' "$name" >"$root/etc/hosts"

# A kubelet sets these, and they are the machine's: it finds what it wants there already.
while read -r path value; do
  [[ -e $root/proc/sys/$path ]] || continue
  echo "$value" >"$root/run/${path//\//.}"
  mount --bind "$root/run/${path//\//.}" "$root/proc/sys/$path"
done <<'SYSCTLS'
kernel/keys/root_maxbytes 25000000
kernel/keys/root_maxkeys 1000000
kernel/panic 10
kernel/panic_on_oops 1
vm/overcommit_memory 1
vm/panic_on_oom 0
SYSCTLS

mkdir -p "$root/mnt/old"
cd "$root"
pivot_root . mnt/old
cd /
umount --lazy /mnt/old
mount --make-rshared /
# Bash reaps whatever is left to it.
exec -a sleep bash -c 'sleep infinity & wait'
