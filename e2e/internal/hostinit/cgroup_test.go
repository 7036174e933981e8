package hostinit

import (
	"slices"
	"testing"
)

func TestHierarchiesOfEveryKindOfMachine(t *testing.T) {
	const disk = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
	for _, tc := range []struct {
		name, mountinfo string
		want            []hierarchy
	}{
		{"version 2 alone", disk + "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
			[]hierarchy{{Point: "/sys/fs/cgroup", Version: 2}}},
		{"version 1 with an empty version 2", disk +
			"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
			"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
			"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/x,name=systemd\n" +
			"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			[]hierarchy{
				{Point: "/sys/fs/cgroup/cpu,cpuacct", Version: 1, Options: "cpu,cpuacct"},
				{Point: "/sys/fs/cgroup/systemd", Version: 1, Options: "name=systemd"},
				{Point: "/sys/fs/cgroup/unified", Version: 2},
			}},
		{"a container's mounts over those of its machine", disk +
			"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n" +
			"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
			"60 23 0:50 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			[]hierarchy{{Point: "/sys/fs/cgroup", Version: 2}}},
		{"none, and a mount elsewhere", disk + "50 27 0:40 / /mnt/cgroup rw - cgroup2 cgroup2 rw\n", nil},
	} {
		if got := parseHierarchies(tc.mountinfo); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestGroupsAreFoundByTheirControllers(t *testing.T) {
	got := parseGroups("4:memory:/a/b\n1:cpu,cpuacct:/\n9:name=systemd:/c:d\n0::/user.slice\n")
	for controllers, want := range map[string]string{
		"memory": "/a/b", "cpu,cpuacct": "/", "name=systemd": "/c:d", "": "/user.slice",
	} {
		if got[controllers] != want {
			t.Errorf("%q: %q, want %q", controllers, got[controllers], want)
		}
	}
}
