package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

const (
	// An agent that restarts is back sooner; the kubelet tries again in any case.
	absencePatience = 10 * time.Second
	// How long a pod waits that starts in any case, also for an agent that is stuck. The agent
	// answers at once if it knows the pod.
	passingTimeout = time.Second
	goneTimeout    = time.Second
)

const tryAgain = "the kubelet tries again; see the pods of troth-node, and the namespace's label troth.dev/mesh"

// Plugin has the commands of CNI.
type Plugin struct {
	Output io.Writer
	Notes  io.Writer
}

// Add has the pod captured, or says why it doesn't start.
func (plugin Plugin) Add(args *skel.CmdArgs) error {
	config, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	raw, result, err := config.previous()
	if err != nil {
		return err
	}
	pod, err := parsePod(args.Args)
	if err != nil {
		return err
	}
	if pod != nil { // anything else on the machine is not in the mesh
		given, err := addresses(result)
		if err != nil {
			return err
		}
		if err := plugin.settle(config, args, *pod, "ADD", given); err != nil {
			return err
		}
	}
	_, err = plugin.Output.Write(append(raw, '\n'))
	return err
}

// Check says whether the pod is captured if it is to be.
func (plugin Plugin) Check(args *skel.CmdArgs) error {
	config, err := parseConfig(args.StdinData)
	if err != nil {
		return err
	}
	_, result, err := config.previous()
	if err != nil {
		return err
	}
	pod, err := parsePod(args.Args)
	if err != nil || pod == nil {
		return err
	}
	given, err := addresses(result)
	if err != nil {
		return err
	}
	return plugin.settle(config, args, *pod, "CHECK", given)
}

// Del tells the agent, if it is there, that the sandbox is no more. It never fails: whatever the
// reason, a pod that is to go must go.
func (plugin Plugin) Del(args *skel.CmdArgs) error {
	config, err := parseConfig(args.StdinData)
	if err != nil {
		plugin.note(err)
		return nil
	}
	pod, err := parsePod(args.Args)
	if err != nil || pod == nil {
		plugin.note(err)
		return nil
	}
	request := Request{Command: "DEL", Sandbox: args.ContainerID, Pod: *pod}
	if _, err := ask(config.Socket, request, nil, time.Now().Add(goneTimeout), 0); err != nil {
		plugin.note(err)
	}
	return nil
}

// GC has nothing to do: the plugin keeps nothing of any sandbox.
func (plugin Plugin) GC(*skel.CmdArgs) error { return nil }

// Status fails where the plugin can't do its work at all. An agent that is away is no such case:
// the pods that need it fail by themselves, and all others start.
func (plugin Plugin) Status(args *skel.CmdArgs) error {
	_, err := parseConfig(args.StdinData)
	return err
}

// settle asks the agent about a pod; nil if it may start, or is as it should be.
func (plugin Plugin) settle(config *Config, args *skel.CmdArgs, pod Pod, command string, given []string) error {
	belief := believe(config, pod)
	timeout, patience := config.timeout(), absencePatience
	if !belief.Holds {
		timeout, patience = min(timeout, passingTimeout), 0
	}
	namespace, err := os.Open(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, "the pod's network namespace can't be opened", err.Error())
	}
	defer namespace.Close()
	request := Request{Command: command, Sandbox: args.ContainerID, Pod: pod, Addresses: given}
	answer, err := ask(config.Socket, request, namespace, time.Now().Add(timeout), patience)
	var why string
	switch {
	case err != nil:
		if !belief.Holds {
			plugin.note(fmt.Errorf("pod %s passes (%s): %w", pod, belief.Why, err))
			return nil
		}
		why = fmt.Sprintf("%s, and %v", belief.Why, err)
	case answer.Verdict == captured, answer.Verdict == out:
		return nil
	case belief.Exempt, answer.Verdict == unknown && !belief.Holds:
		plugin.note(fmt.Errorf("pod %s passes (%s): %s", pod, belief.Why, answer.Why))
		return nil
	case answer.Verdict == unknown:
		why = fmt.Sprintf("%s, and %s", belief.Why, answer.Why)
	default:
		why = fmt.Sprintf("%.1000s", answer.Why)
	}
	what := "is not started uncaptured"
	if command == "CHECK" {
		what = "is not known to be captured"
	}
	return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("troth: pod %s %s: %s", pod, what, why), tryAgain)
}

func (plugin Plugin) note(err error) {
	if err != nil {
		fmt.Fprintf(plugin.Notes, "troth-cni: %v\n", err)
	}
}
