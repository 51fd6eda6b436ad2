package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
)

// controllerManagerVerb is the hidden verb with which the program starts itself again as kube-controller-manager. It
// needs a process of its own: it applies the logging configuration of the process, which is possible only once.
const controllerManagerVerb = "kube-controller-manager"

func newControllerManagerCommand() *cobra.Command {
	return &cobra.Command{
		Use:                controllerManagerVerb,
		Short:              "Be kube-controller-manager (up starts this)",
		Hidden:             true,
		DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) {
			os.Args = append([]string{controllerManagerVerb}, args...)
			os.Exit(cli.Run(app.NewControllerManagerCommand()))
		},
	}
}

// controllerManagerArgs leaves out the controllers that manage nodes (there are none) and would taint or evict.
func controllerManagerArgs(kubeconfig string, p *pki) []string {
	return []string{
		"--kubeconfig=" + kubeconfig,
		"--controllers=*,-node-lifecycle-controller,-node-ipam-controller,-node-route-controller,-cloud-node-lifecycle-controller," +
			"-service-lb-controller,-persistentvolume-attach-detach-controller,-ttl-controller",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + p.file("sa.key"),
		"--root-ca-file=" + p.file("ca.crt"),
		"--cluster-signing-cert-file=" + p.file("ca.crt"),
		"--cluster-signing-key-file=" + p.file("ca.key"),
		"--leader-elect=false",
		"--secure-port=0",
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
		"--profiling=false",
	}
}

// startControllerManager runs kube-controller-manager as a child. The kernel kills it when this process dies, however
// that happens.
func startControllerManager(parts *stack, args []string, logFile string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := openLog(logFile)
	if err != nil {
		return err
	}
	cmd := exec.Command(self, append([]string{controllerManagerVerb}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}

	started, exited := make(chan error, 1), make(chan error, 1)
	go func() {
		// The kernel sends the death signal when the starting thread ends, so this thread stays until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s again as %s: %w", self, controllerManagerVerb, err)
	}
	parts.run(controllerManagerVerb, logFile, func(ctx context.Context) error {
		select {
		case err := <-exited:
			return fmt.Errorf("exited: %v", err)
		case <-ctx.Done():
			// It keeps nothing of its own, and takes seconds to stop when asked.
			_ = cmd.Process.Kill()
			<-exited
			return nil
		}
	})
	return nil
}
