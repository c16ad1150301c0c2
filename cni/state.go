package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

const (
	stateVersion = 1
	largestState = 16 << 20
)

// State is what the mesh was as of last time, which the agent keeps on the node's disk.
type State struct {
	Version int `json:"version"`
	// Namespaces are all that there were, and whether their pods are in the mesh.
	Namespaces map[string]bool `json:"namespaces"`
	// Out are UIDs of the node's own pods that are out of the mesh though their namespace is in it.
	Out []string `json:"out"`
}

func readState(path string) (*State, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.Mode().IsRegular() || owner != uint32(os.Geteuid()) || info.Mode().Perm()&0o022 != 0 {
		return nil, fmt.Errorf("%s is not a file that only root may write", path)
	}
	content, err := io.ReadAll(io.LimitReader(file, largestState+1))
	if err != nil {
		return nil, err
	}
	if len(content) > largestState {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, largestState)
	}
	state := &State{}
	if err := json.Unmarshal(content, state); err != nil {
		return nil, fmt.Errorf("%s can't be read: %w", path, err)
	}
	if state.Version != stateVersion {
		return nil, fmt.Errorf("%s has version %d, and not %d", path, state.Version, stateVersion)
	}
	if state.Namespaces == nil {
		return nil, fmt.Errorf("%s has no namespaces", path)
	}
	return state, nil
}

// Belief is what is to become of a pod if nobody answers for the mesh.
type Belief struct {
	// Holds says that it doesn't start.
	Holds bool
	// Exempt says that it starts even if it is known to be in the mesh and can't be captured.
	Exempt bool
	Why    string
}

// believe judges a pod by the state of last time.
//
// What isn't known may be in the mesh and so is held, except what a cluster needs to come up (the
// exempt namespaces) and static pods, which never are.
func believe(config *Config, pod Pod) Belief {
	if config.isExempt(pod.Namespace) {
		return Belief{Exempt: true, Why: "pods of namespace " + pod.Namespace + " are not held up"}
	}
	if pod.isStatic() {
		return Belief{Exempt: true, Why: "it is a static pod"}
	}
	state, err := readState(config.State)
	if err != nil {
		why := err.Error()
		if errors.Is(err, os.ErrNotExist) {
			why = "there is no " + config.State
		}
		return Belief{Holds: true, Why: "which namespaces are in the mesh is not known here: " + why}
	}
	inMesh, known := state.Namespaces[pod.Namespace]
	switch {
	case !known:
		return Belief{Holds: true, Why: "namespace " + pod.Namespace + " is new here and may be in the mesh"}
	case !inMesh:
		return Belief{Why: "namespace " + pod.Namespace + " is not in the mesh"}
	}
	for _, uid := range state.Out {
		if uid == pod.UID {
			return Belief{Why: "the pod is not in the mesh"}
		}
	}
	return Belief{Holds: true, Why: "namespace " + pod.Namespace + " is in the mesh"}
}
