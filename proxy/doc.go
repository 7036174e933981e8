// Package proxy turns Services into packet rules in the kernel of one node.
//
// Read plan.go and categorize.go (what a Service wants: pure), class.go and
// layout.go (the rules, which stay, and the numbers that lead through them),
// elements.go (a front as elements of maps: pure), book.go (who gets what when
// two want the same), mirror.go and edit.go (what the kernel has, and the order
// in which it changes), engine.go (joins them), then proxy.go (the loop).
// testdata has what nft prints for each feature; docs/decisions/0003 says why.
//
// Fence (fence.go) stands for itself: it keeps the kernel's own hands off the
// VIPs that this node answers for, and also works beside another proxy.
package proxy
