package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	protocolVersion = 1
	longestAnswer   = 64 << 10
	retryPause      = 100 * time.Millisecond
	// The agent has a moment less than the plugin, so that its reason arrives: so much at most, and
	// a fifth of the time.
	answerMargin = time.Second
)

// The agent's verdicts.
const (
	captured = "captured" // in the mesh, and captured
	out      = "out"      // not in the mesh
	unknown  = "unknown"  // nobody can say yet whether it is in the mesh
	refused  = "refused"  // in the mesh, and can't be captured
	noted    = "noted"    // the answer to DEL
)

// Request is one question to the agent: a message of its own (SOCK_SEQPACKET), with the network
// namespace's descriptor beside it (SCM_RIGHTS) if there is one.
type Request struct {
	Version   int      `json:"version"`
	Command   string   `json:"command"`
	Sandbox   string   `json:"sandbox"`
	Pod       Pod      `json:"pod"`
	Addresses []string `json:"addresses,omitempty"`
	// Seconds is how long the agent may take.
	Seconds float64 `json:"seconds"`
}

// Answer is the agent's.
type Answer struct {
	Verdict string `json:"verdict"`
	Why     string `json:"why"`
}

// absent says that no agent has taken the question.
type absent struct{ cause error }

func (err absent) Error() string {
	return fmt.Sprintf("troth's agent on this node can't be asked: %v", err.cause)
}

// ask puts a question until somebody answers or the time is up: an agent that ends while it is
// asked may have a successor.
//
// patience is how long to try where nobody is there to take the question.
func ask(socket string, request Request, namespace *os.File, deadline time.Time, patience time.Duration) (*Answer, error) {
	until := time.Now().Add(patience)
	for {
		answer, taken, err := askOnce(socket, request, namespace, deadline)
		if err == nil {
			return answer, nil
		}
		if taken {
			until = time.Now().Add(patience)
		}
		pause := time.Now().Add(retryPause)
		if pause.After(deadline) || pause.After(until) {
			return nil, absent{err}
		}
		time.Sleep(retryPause)
	}
}

// askOnce also says whether somebody has taken the question.
func askOnce(socket string, request Request, namespace *os.File, deadline time.Time) (answer *Answer, taken bool, err error) {
	connection, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return nil, false, err
	}
	defer connection.Close()
	if err := connection.SetDeadline(deadline); err != nil {
		return nil, false, err
	}
	request.Version = protocolVersion
	left := time.Until(deadline)
	request.Seconds = max(0, (left - min(answerMargin, left/5)).Seconds())
	message, err := json.Marshal(request)
	if err != nil {
		return nil, false, err
	}
	var rights []byte
	if namespace != nil {
		rights = syscall.UnixRights(int(namespace.Fd()))
	}
	if _, _, err := connection.WriteMsgUnix(message, rights, nil); err != nil {
		return nil, false, err
	}
	buffer := make([]byte, longestAnswer)
	length, err := connection.Read(buffer)
	if err != nil {
		return nil, true, err
	}
	answer = &Answer{}
	if err := json.Unmarshal(buffer[:length], answer); err != nil {
		return strange(err.Error()), true, nil
	}
	switch answer.Verdict {
	case captured, out, unknown, refused, noted:
		return answer, true, nil
	}
	return strange(fmt.Sprintf("the verdict %.80q", answer.Verdict)), true, nil
}

// strange stands for an answer that says nothing: its sender won't answer better if it is
// asked again.
func strange(found string) *Answer {
	return &Answer{Verdict: unknown, Why: "troth's agent on this node answers strangely: " + found}
}
