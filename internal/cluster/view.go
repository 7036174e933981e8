package cluster

// A View is all that is known of a cluster at one moment.
type View struct {
	Services map[Key]*Service
	Nodes    map[string]*Node
	Pools    map[string]string
}

// Delta returns v as a delta that adds everything and removes nothing. It is
// not marked as synced: a view from a file is old, and old never means gone.
func (v View) Delta() Delta {
	return Delta{Services: v.Services, Nodes: v.Nodes, Pools: v.Pools}
}

// Apply folds d into v. A View has one owner; it is not safe to share while
// it is being changed.
func (v *View) Apply(d Delta) {
	if v.Services == nil {
		v.Services = map[Key]*Service{}
	}
	if v.Nodes == nil {
		v.Nodes = map[string]*Node{}
	}
	set(v.Services, d.Services)
	set(v.Nodes, d.Nodes)
	if d.Pools != nil {
		v.Pools = d.Pools
	}
}

// set copies changes into m; nil deletes.
func set[K comparable, V any](m, changes map[K]*V) {
	for k, value := range changes {
		if value == nil {
			delete(m, k)
		} else {
			m[k] = value
		}
	}
}
