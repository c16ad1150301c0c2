package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	defaultTimeout = 30 * time.Second
	longestTimeout = 60 * time.Second
)

var (
	label  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	name   = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$`)
	anyUID = regexp.MustCompile(`^[-A-Za-z0-9]{1,128}$`)
	apiUID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// Config is the plugin's entry in the network configuration, which the agent writes.
type Config struct {
	types.NetConf
	// Socket is the agent's.
	Socket string `json:"socket"`
	// State is the file that says what the mesh was as of last time; see State.
	State string `json:"state"`
	// Exempt are the namespaces whose pods are never held up, in the mesh or not.
	Exempt []string `json:"exempt"`
	// TimeoutSeconds is how long a pod of the mesh waits for its capture, at most.
	TimeoutSeconds float64 `json:"timeoutSeconds"`
	// RawPrevResult is what the plugin before this one answered, as it came.
	RawPrevResult json.RawMessage `json:"prevResult"`
}

func parseConfig(stdin []byte) (*Config, error) {
	config := &Config{}
	if err := json.Unmarshal(stdin, config); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "the configuration can't be read", err.Error())
	}
	for _, each := range []struct{ field, path string }{{"socket", config.Socket}, {"state", config.State}} {
		if !path.IsAbs(each.path) || path.Clean(each.path) != each.path {
			return nil, invalid(each.field, each.path, "an absolute path without . and ..")
		}
	}
	for number, namespace := range config.Exempt {
		if !label.MatchString(namespace) {
			return nil, invalid(fmt.Sprintf("exempt[%d]", number), namespace, "the name of a namespace")
		}
	}
	if config.TimeoutSeconds < 0 || config.TimeoutSeconds > longestTimeout.Seconds() {
		found := fmt.Sprint(config.TimeoutSeconds)
		return nil, invalid("timeoutSeconds", found, "0 (for the default) to 60")
	}
	return config, nil
}

func (config *Config) timeout() time.Duration {
	if config.TimeoutSeconds == 0 {
		return defaultTimeout
	}
	return time.Duration(config.TimeoutSeconds * float64(time.Second))
}

func (config *Config) isExempt(namespace string) bool {
	for _, each := range config.Exempt {
		if each == namespace {
			return true
		}
	}
	return false
}

// previous is the result of the plugin before this one, as it came and as it is read.
func (config *Config) previous() (json.RawMessage, *current.Result, error) {
	if len(config.RawPrevResult) == 0 || string(config.RawPrevResult) == "null" {
		return nil, nil, types.NewError(types.ErrInvalidNetworkConfig,
			"troth-cni has no prevResult: it belongs behind the plugin that gives pods their addresses", "")
	}
	if err := json.Unmarshal(config.RawPrevResult, &config.NetConf.RawPrevResult); err != nil {
		return nil, nil, invalid("prevResult", "no object", "the result of the plugin before")
	}
	if err := version.ParsePrevResult(&config.NetConf); err != nil {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "prevResult can't be read", err.Error())
	}
	result, err := current.NewResultFromResult(config.PrevResult)
	if err != nil {
		return nil, nil, types.NewError(types.ErrDecodingFailure, "prevResult can't be read", err.Error())
	}
	return config.RawPrevResult, result, nil
}

// addresses are those that the pod has by a result, and not the node's end of its link.
func addresses(result *current.Result) ([]string, error) {
	found := []string{}
	for number, ip := range result.IPs {
		if ip.Interface != nil {
			at := *ip.Interface
			if at < 0 || at >= len(result.Interfaces) {
				return nil, invalid(fmt.Sprintf("prevResult.ips[%d].interface", number), fmt.Sprint(at),
					"the index of one of prevResult.interfaces")
			}
			if result.Interfaces[at].Sandbox == "" {
				continue
			}
		}
		address, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return nil, invalid(fmt.Sprintf("prevResult.ips[%d].address", number), ip.Address.String(), "an IP address")
		}
		found = append(found, address.Unmap().String())
	}
	return found, nil
}

// Pod is who a sandbox is made for, by the runtime's word.
type Pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

func (pod Pod) String() string { return pod.Namespace + "/" + pod.Name }

// isStatic says whether the kubelet has it from a file: the API server's UIDs are RFC 4122's in
// their usual form, and kubelets give their own pods 32 digits. Such a pod has no service account.
func (pod Pod) isStatic() bool { return !apiUID.MatchString(pod.UID) }

// parsePod reads CNI_ARGS; nil if they tell of no pod of Kubernetes.
func parsePod(args string) (*Pod, error) {
	told := map[string]string{}
	for _, each := range strings.Split(args, ";") {
		key, value, _ := strings.Cut(each, "=")
		if _, twice := told[key]; twice && strings.HasPrefix(key, "K8S_POD_") {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS has "+key+" twice", "")
		}
		told[key] = value
	}
	pod := &Pod{Namespace: told["K8S_POD_NAMESPACE"], Name: told["K8S_POD_NAME"], UID: told["K8S_POD_UID"]}
	if *pod == (Pod{}) {
		return nil, nil
	}
	for _, each := range []struct {
		key, value string
		form       *regexp.Regexp
	}{
		{"K8S_POD_NAMESPACE", pod.Namespace, label},
		{"K8S_POD_NAME", pod.Name, name},
		{"K8S_POD_UID", pod.UID, anyUID},
	} {
		if !each.form.MatchString(each.value) {
			return nil, types.NewError(types.ErrInvalidEnvironmentVariables,
				fmt.Sprintf("CNI_ARGS: %s is %.80q, which no pod's can be", each.key, each.value), "")
		}
	}
	return pod, nil
}

func invalid(field, found, wanted string) error {
	return types.NewError(types.ErrInvalidNetworkConfig,
		fmt.Sprintf("troth-cni's configuration: %s is %.80q, but must be %s", field, found, wanted), "")
}
