// Package proxy turns Services into packet rules in the kernel of one node.
//
// Fence (fence.go) stands for itself: it keeps the kernel's own hands off the
// VIPs that this node answers for, and also works beside another proxy.
package proxy
