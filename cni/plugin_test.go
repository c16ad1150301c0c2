package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

const (
	uid    = "11111111-2222-3333-4444-555555555555"
	result = `{"cniVersion":"1.1.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"}],` +
		`"ips":[{"address":"10.1.0.7/24","interface":1},{"address":"10.1.0.1/24","interface":0},` +
		`{"address":"fd00::7/64","interface":1}],"routes":[],"later":{"unknown":1}}`
	known = `{"version":1,"namespaces":{"shop":true,"tools":false},"out":["99999999-2222-3333-4444-555555555555"]}`
)

// node is a node's folder with what the plugin finds there.
type node struct {
	*testing.T
	folder string
	output bytes.Buffer
	notes  bytes.Buffer
}

func newNode(t *testing.T, state string) *node {
	// t.TempDir has the test's name in it, which is too long for a socket.
	folder, err := os.MkdirTemp("", "cni")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	n := &node{T: t, folder: folder}
	if state != "" {
		n.write("mesh.json", state)
	}
	n.write("netns", "the namespace's")
	return n
}

func (n *node) write(name, content string) {
	if err := os.WriteFile(filepath.Join(n.folder, name), []byte(content), 0o600); err != nil {
		n.Fatal(err)
	}
}

func (n *node) args(namespace, uid, more string) *skel.CmdArgs {
	stdin := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"net","type":"troth-cni","socket":%q,"state":%q,`+
		`"exempt":["kube-system"],"timeoutSeconds":1.5,"prevResult":%s%s}`,
		n.folder+"/sock", n.folder+"/mesh.json", result, more)
	return &skel.CmdArgs{
		ContainerID: "sandbox-1",
		Netns:       n.folder + "/netns",
		IfName:      "eth0",
		Args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=web-0;K8S_POD_UID=%s;"+
			"K8S_POD_INFRA_CONTAINER_ID=sandbox-1", namespace, uid),
		StdinData: []byte(stdin),
	}
}

func (n *node) plugin() Plugin { return Plugin{Output: &n.output, Notes: &n.notes} }

// serve answers each question in turn; "" ends the connection without one.
func (n *node) serve(verdicts ...string) <-chan Request {
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: n.folder + "/sock", Net: "unixpacket"})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { listener.Close() })
	asked := make(chan Request, len(verdicts))
	go func() {
		for _, verdict := range verdicts {
			connection, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			asked <- receive(connection)
			if verdict != "" {
				answer, _ := json.Marshal(Answer{Verdict: verdict, Why: "that is why"})
				connection.Write(answer)
			}
			connection.Close()
		}
	}()
	return asked
}

// receive reads a question; the text of the file whose descriptor came along stands for the sandbox's.
func receive(connection *net.UnixConn) Request {
	message, rights := make([]byte, longestAnswer), make([]byte, 1024)
	length, room, _, _, _ := connection.ReadMsgUnix(message, rights)
	request := Request{}
	json.Unmarshal(message[:length], &request)
	controls, _ := syscall.ParseSocketControlMessage(rights[:room])
	for _, control := range controls {
		descriptors, _ := syscall.ParseUnixRights(&control)
		for _, descriptor := range descriptors {
			file := os.NewFile(uintptr(descriptor), "")
			content := make([]byte, 100)
			read, _ := file.Read(content)
			request.Sandbox += " in " + string(content[:read])
			file.Close()
		}
	}
	return request
}

func explain(err error) string {
	var told *types.Error
	if errors.As(err, &told) {
		return fmt.Sprintf("%d %s", told.Code, told.Msg)
	}
	return fmt.Sprint(err)
}

func TestAPodThatIsCapturedStartsWithTheResultAsItWas(t *testing.T) {
	n := newNode(t, known)
	asked := n.serve(captured)
	if err := n.plugin().Add(n.args("shop", uid, "")); err != nil {
		t.Fatal(err)
	}
	if n.output.String() != result+"\n" {
		t.Errorf("the result is %s", n.output.String())
	}
	request := <-asked
	if request.Seconds <= 0 || request.Seconds > 1.2 {
		t.Errorf("the agent has %v s", request.Seconds)
	}
	request.Seconds = 0
	got, _ := json.Marshal(request)
	want := `{"version":1,"command":"ADD","sandbox":"sandbox-1 in the namespace's",` +
		`"pod":{"namespace":"shop","name":"web-0","uid":"` + uid + `"},` +
		`"addresses":["10.1.0.7","fd00::7"],"seconds":0}`
	if string(got) != want {
		t.Errorf("asked %s", got)
	}
}

func TestAPodThatStartsInAnyCaseDoesNotWaitLong(t *testing.T) {
	n := newNode(t, known)
	asked := n.serve(unknown)
	if err := n.plugin().Add(n.args("tools", uid, "")); err != nil {
		t.Fatal(err)
	}
	if request := <-asked; request.Seconds <= 0 || request.Seconds > 0.8 {
		t.Errorf("the agent has %v s", request.Seconds)
	}
}

func TestWhoStarts(t *testing.T) {
	for _, c := range []struct{ name, state, namespace, uid, verdict, want string }{
		{"not in the mesh by the agent", known, "shop", uid, out, ""},
		{"a namespace that has just left", known, "shop", uid, out, ""},
		{"can't be captured", known, "shop", uid, refused, "that is why"},
		{"can't be captured, of last time's others", known, "tools", uid, refused, "that is why"},
		{"nobody can say, in the mesh", known, "shop", uid, unknown, "namespace shop is in the mesh, and that is why"},
		{"nobody can say, not in the mesh", known, "tools", uid, unknown, ""},
		{"nobody can say, exempt", known, "kube-system", uid, unknown, ""},
		{"can't be captured, exempt", known, "kube-system", uid, refused, ""},
		{"no agent, in the mesh", known, "shop", uid, "none", "namespace shop is in the mesh, and troth's agent on this node can't be asked"},
		{"no agent, opted out", known, "shop", "9999" + uid[:4] + uid[8:], "none", ""},
		{"no agent, not in the mesh", known, "tools", uid, "none", ""},
		{"no agent, new", known, "new", uid, "none", "namespace new is new here and may be in the mesh"},
		{"no agent, exempt", known, "kube-system", uid, "none", ""},
		{"no agent, static", known, "shop", strings.Repeat("0", 32), "none", ""},
		{"nothing known", "", "tools", uid, "none", "is not known here: there is no "},
		{"nothing known, exempt", "", "kube-system", uid, "none", ""},
		{"corrupt", known[:40], "tools", uid, "none", "can't be read"},
		{"corrupt, asked", known[:40], "tools", uid, out, ""},
		{"another version's", `{"version":2,"namespaces":{}}`, "tools", uid, "none", "has version 2, and not 1"},
		{"of another form", `{"version":1}`, "tools", uid, "none", "has no namespaces"},
		{"an agent that talks nonsense", known, "shop", uid, "yes", `answers strangely: the verdict "yes"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if strings.HasPrefix(c.uid, "9999") {
				c.uid = "99999999-2222-3333-4444-555555555555"
			}
			n := newNode(t, c.state)
			if c.verdict != "none" {
				n.serve(c.verdict)
			}
			err := n.plugin().Add(n.args(c.namespace, c.uid, ""))
			if c.want == "" {
				if err != nil || n.output.String() != result+"\n" {
					t.Errorf("%v %s", err, n.output.String())
				}
				return
			}
			prefix := "11 troth: pod " + c.namespace + "/web-0 is not started uncaptured: "
			if told := explain(err); !strings.HasPrefix(told, prefix) || !strings.Contains(told, c.want) {
				t.Errorf("says %s", told)
			}
			if n.output.Len() != 0 {
				t.Errorf("and has a result: %s", n.output.String())
			}
		})
	}
}

func TestASuccessorIsAskedWhenAnAgentEnds(t *testing.T) {
	n := newNode(t, known)
	n.serve("", "", captured)
	if err := n.plugin().Add(n.args("shop", uid, "")); err != nil {
		t.Fatal(err)
	}
}

func TestAFileThatOthersMayWriteIsNotBelieved(t *testing.T) {
	n := newNode(t, known)
	if err := os.Chmod(n.folder+"/mesh.json", 0o622); err != nil {
		t.Fatal(err)
	}
	told := explain(n.plugin().Add(n.args("tools", uid, "")))
	if !strings.Contains(told, "is not a file that only root may write") {
		t.Error(told)
	}
	os.Remove(n.folder + "/mesh.json")
	os.Symlink("/dev/null", n.folder+"/mesh.json")
	if told := explain(n.plugin().Add(n.args("tools", uid, ""))); !strings.Contains(told, "symbolic link") {
		t.Error(told)
	}
}

func TestBadInputIsRefusedByItsName(t *testing.T) {
	n := newNode(t, known)
	for _, c := range []struct{ from, to, want string }{
		{`"socket":"`, `"socket":"../`, `7 troth-cni's configuration: socket is`},
		{`"kube-system"`, `"Kube System"`, `7 troth-cni's configuration: exempt[0] is "Kube System", but must be the name`},
		{`1.5`, `600`, `7 troth-cni's configuration: timeoutSeconds is "600", but must be 0 (for the default) to 60`},
		{`"interface":1`, `"interface":7`, `7 troth-cni's configuration: prevResult.ips[0].interface is "7"`},
		{`"10.1.0.7/24"`, `"10.1.0.7"`, `6 prevResult can't be read`},
		{result, `null`, `7 troth-cni has no prevResult`},
		{result, `[]`, `7 troth-cni's configuration: prevResult is "no object"`},
	} {
		args := n.args("shop", uid, "")
		args.StdinData = []byte(strings.Replace(string(args.StdinData), c.from, c.to, 1))
		if told := explain(n.plugin().Add(args)); !strings.HasPrefix(told, c.want) {
			t.Errorf("%s says %s", c.to, told)
		}
	}
	for _, c := range []struct{ from, to, want string }{
		{"=shop", "=../shop", `4 CNI_ARGS: K8S_POD_NAMESPACE is "../shop", which no pod's can be`},
		{"K8S_POD_UID=" + uid, "", `4 CNI_ARGS: K8S_POD_UID is "", which no pod's can be`},
		{"IgnoreUnknown=1", "K8S_POD_NAMESPACE=tools", `4 CNI_ARGS has K8S_POD_NAMESPACE twice`},
	} {
		args := n.args("shop", uid, "")
		args.Args = strings.Replace(args.Args, c.from, c.to, 1)
		if told := explain(n.plugin().Add(args)); told != c.want {
			t.Errorf("%s says %s", c.to, told)
		}
	}
}

func TestWhatIsNoPodOfKubernetesPasses(t *testing.T) {
	n := newNode(t, "")
	args := n.args("", "", "")
	args.Args = "IgnoreUnknown=1"
	if err := n.plugin().Add(args); err != nil || n.output.String() != result+"\n" {
		t.Errorf("%v %s", err, n.output.String())
	}
}

func TestCheckSaysWhetherAPodIsCaptured(t *testing.T) {
	n := newNode(t, known)
	asked := n.serve(captured, refused)
	if err := n.plugin().Check(n.args("shop", uid, "")); err != nil {
		t.Fatal(err)
	}
	if request := <-asked; request.Command != "CHECK" {
		t.Error(request)
	}
	told := explain(n.plugin().Check(n.args("shop", uid, "")))
	if told != "11 troth: pod shop/web-0 is not known to be captured: that is why" {
		t.Error(told)
	}
	if n.output.Len() != 0 {
		t.Error(n.output.String())
	}
}

func TestDelTellsTheAgentAndNeverFails(t *testing.T) {
	n := newNode(t, known)
	asked := n.serve(noted)
	args := n.args("shop", uid, "")
	args.Netns = "" // as the specification allows
	if err := n.plugin().Del(args); err != nil {
		t.Fatal(err)
	}
	if request := <-asked; request.Command != "DEL" || request.Sandbox != "sandbox-1" || request.Pod.UID != uid {
		t.Error(request)
	}
	for _, stdin := range []string{string(args.StdinData), `{}`} {
		args.StdinData = []byte(stdin)
		if err := n.plugin().Del(args); err != nil {
			t.Error(err)
		}
	}
}

func TestStatusIsWellWithoutAnAgent(t *testing.T) {
	n := newNode(t, "")
	args := n.args("", "", "")
	if err := n.plugin().Status(args); err != nil {
		t.Error(err)
	}
	args.StdinData = []byte(`{"name":"net"}`)
	if err := n.plugin().Status(args); err == nil {
		t.Error("it can't do anything with that")
	}
}
