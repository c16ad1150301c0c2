// troth-cni is a chained CNI plugin that has a pod captured before any of its processes runs.
//
// It asks the node's agent, and without one it goes by what the mesh was as of last time: pods that
// may be in the mesh don't start uncaptured, and all others start as they would without it. It
// changes nothing of the network itself, so the result of the plugin before it stays as it is.
package main

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

// What a chained plugin needs, the result of the one before it, exists since 0.3.0.
var supported = version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

func main() {
	plugin := Plugin{Output: os.Stdout, Notes: os.Stderr}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    plugin.Add,
		Check:  plugin.Check,
		Del:    plugin.Del,
		GC:     plugin.GC,
		Status: plugin.Status,
	}, supported, "troth-cni: captures pods before they start")
}
