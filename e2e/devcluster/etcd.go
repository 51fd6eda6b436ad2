package main

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
)

// startEtcd starts a single-member etcd with its data in dir and returns its client URL.
//
// Both listeners take any free port: the client port is known only to this process, and nobody ever dials the peer
// port, so the advertised peer address is a constant (it is part of the stored membership and must not change).
func startEtcd(ctx context.Context, parts *stack, dir, logFile string) (string, error) {
	cfg := embed.NewConfig()
	cfg.Name = "devcluster"
	cfg.Dir = dir
	cfg.UnsafeNoFsync = true // a devcluster need not survive a power cut
	cfg.LogLevel = "warn"
	cfg.LogOutputs = []string{logFile}
	cfg.WarningUnaryRequestDuration = time.Second
	cfg.TickMs, cfg.ElectionMs = 20, 200 // it elects itself, so why wait
	cfg.EnableGRPCGateway = false
	anyPort := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{anyPort}, []url.URL{anyPort}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{anyPort}, []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()

	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return "", fmt.Errorf("starting etcd: %w (see %s)", err, logFile)
	}
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		server.Close()
		return "", fmt.Errorf("etcd: %w (see %s)", err, logFile)
	case <-time.After(startTimeout):
		server.Close()
		return "", fmt.Errorf("etcd elected no leader in %s (see %s; if %s is damaged, remove it)", startTimeout, logFile, filepath.Dir(dir))
	case <-ctx.Done():
		server.Close()
		return "", ctx.Err()
	}
	parts.run("etcd", logFile, func(ctx context.Context) error {
		defer server.Close()
		select {
		case <-ctx.Done():
			return nil
		case err := <-server.Err():
			return err
		}
	})
	return "http://" + server.Clients[0].Addr().String(), nil
}
