package cluster

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// RecordLabel marks the ConfigMaps that hold records; RecordOwner, an annotation, says whose.
const (
	RecordLabel   = "sealock.dev/record"
	RecordOwner   = "sealock.dev/record-owner"
	RecordKey     = "record" // of binaryData
	recordManager = "sealock-records"
)

// flushEvery is how long a change may stay in memory only. Losing it costs dry-runs, nothing else.
const flushEvery = time.Second

// Judged says under what rules the last run of an owner went through.
type Judged struct{ Tenant, Identity, Policies string }

// Records are Baselines that outlive the process: one ConfigMap for each owner in the system namespace, written behind.
// A record that is older than the cluster is harmless: what it says is compared with what is live, and a difference is
// settled by asking the API server.
type Records struct {
	memory    *Memory
	self      conn
	namespace string
	log       logr.Logger

	loading sync.Mutex // held while the first list is under way
	loaded  bool

	mu    sync.Mutex
	heads map[string]head
	dirty map[string]struct{}
	later map[string]struct{} // written when the process ends, or with what is dirty

	flushing sync.Mutex
	zip      *gzip.Writer // guarded by flushing
}

// head is what a record says of the owner itself.
type head struct {
	fingerprint string
	judged      Judged
	notes       map[string]string
}

// NewRecords returns records kept in the namespace with the rights of config. It asks the API server nothing.
func NewRecords(config *rest.Config, namespace string, log logr.Logger) (*Records, error) {
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	self, err := connect(config, httpClient)
	if err != nil {
		return nil, err
	}
	return &Records{memory: NewMemory(), self: self, namespace: namespace, log: log, heads: map[string]head{}, dirty: map[string]struct{}{}, later: map[string]struct{}{}, zip: gzip.NewWriter(io.Discard)}, nil
}

// Load lists the records once. A record that cannot be read is left out: its objects are dry-run.
func (r *Records) Load(ctx context.Context) error {
	r.loading.Lock()
	defer r.loading.Unlock()
	if r.loaded {
		return nil
	}
	ans, err := r.self.list(ctx, place{kind: configMapKind(), namespace: r.namespace}, RecordLabel)
	if err != nil {
		return clean(fault.StagePlan, err, fault.Ref{Kind: "ConfigMap", Namespace: r.namespace})
	}
	items, _ := ans.body["items"].([]any)
	for _, item := range items {
		body, _ := item.(map[string]any)
		if err := r.take(body); err != nil {
			r.log.Info("a record is not used; its objects are looked at again", "configmap", text(body, "metadata", "name"), "reason", err.Error())
		}
	}
	r.loaded = true
	return nil
}

// take reads one ConfigMap.
func (r *Records) take(body map[string]any) error {
	packed, err := base64.StdEncoding.DecodeString(text(body, "binaryData", RecordKey))
	if err != nil {
		return err
	}
	rec, err := DecodeRecord(packed)
	if err != nil {
		return err
	}
	for _, o := range rec.Objects {
		id, b, err := fromRecord(o)
		if err != nil {
			return err
		}
		r.memory.Put(rec.Owner, id, b)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heads[rec.Owner] = head{fingerprint: rec.Fingerprint, judged: Judged{Tenant: rec.Tenant, Identity: rec.Identity, Policies: rec.Policies}, notes: rec.Notes}
	return nil
}

// Get returns the baseline of an object.
func (r *Records) Get(owner string, id manifest.ID) (Baseline, bool) { return r.memory.Get(owner, id) }

// Put remembers it.
func (r *Records) Put(owner string, id manifest.ID, b Baseline) {
	if old, ok := r.memory.Get(owner, id); ok && old == b {
		return
	}
	r.memory.Put(owner, id, b)
	r.touch(owner)
}

// Forget drops one object.
func (r *Records) Forget(owner string, id manifest.ID) {
	r.memory.Forget(owner, id)
	r.touch(owner)
}

// ForgetIf drops the objects of an owner that gone names.
func (r *Records) ForgetIf(owner string, gone func(manifest.ID) bool) {
	if r.memory.forgetIf(owner, gone) {
		r.touch(owner)
	}
}

// Drop forgets an owner.
func (r *Records) Drop(owner string) {
	r.memory.Drop(owner)
	r.mu.Lock()
	delete(r.heads, owner)
	r.mu.Unlock()
	r.touch(owner)
}

// Recall returns the fingerprint of the last run of the owner that was applied whole, "" when there is none.
func (r *Records) Recall(ctx context.Context, namespace, name string) (string, error) {
	if err := r.Load(ctx); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heads[namespace+"/"+name].fingerprint, nil
}

// Remember notes the fingerprint of a run that was applied whole and who judged it; "" says that one has begun.
func (r *Records) Remember(namespace, name, fingerprint string, judged Judged) {
	owner := namespace + "/" + name
	h := head{fingerprint: fingerprint, judged: judged}
	r.mu.Lock()
	was, known := r.heads[owner]
	same := known && was.fingerprint == h.fingerprint && was.judged == h.judged
	r.heads[owner] = h
	r.mu.Unlock()
	if !same {
		r.touch(owner)
	}
}

// Advance replaces the fingerprint of an owner whose last run still holds. It is written when the process ends in good
// order: a kill costs a run, and a commit that touches nothing costs no write.
func (r *Records) Advance(namespace, name, fingerprint string) {
	owner := namespace + "/" + name
	r.mu.Lock()
	defer r.mu.Unlock()
	h, known := r.heads[owner]
	if !known || h.fingerprint == fingerprint {
		return
	}
	h.fingerprint = fingerprint
	r.heads[owner] = h
	r.later[owner] = struct{}{}
}

// Owners returns the owners that have a record, sorted.
func (r *Records) Owners() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]string, 0, len(r.heads))
	for owner := range r.heads {
		if !strings.Contains(owner, ":") {
			out = append(out, owner)
		}
	}
	slices.Sort(out)
	return out
}

func (r *Records) touch(owner string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.heads[owner]; !ok && r.memory.has(owner) {
		r.heads[owner] = head{}
	}
	r.dirty[owner] = struct{}{}
}

// Run writes behind until ctx is done, and then once more.
func (r *Records) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.Flush(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			r.mu.Lock()
			maps.Copy(r.dirty, r.later)
			r.mu.Unlock()
			r.Flush(last)
			return nil
		}
	}
}

// Flush writes what changed. What cannot be written is tried again at the next time.
func (r *Records) Flush(ctx context.Context) {
	r.flushing.Lock()
	defer r.flushing.Unlock()
	r.mu.Lock()
	todo := make([]string, 0, len(r.dirty))
	for owner := range r.dirty {
		todo = append(todo, owner)
	}
	clear(r.dirty)
	for _, owner := range todo {
		delete(r.later, owner)
	}
	r.mu.Unlock()
	slices.Sort(todo)
	for i, owner := range todo {
		if err := r.write(ctx, owner); err != nil {
			r.log.Info("a record could not be written; it is tried again", "owner", owner, "reason", err.Error())
			r.mu.Lock()
			for _, later := range todo[i:] {
				r.dirty[later] = struct{}{}
			}
			r.mu.Unlock()
			return
		}
	}
}

// write stores the record of one owner, or deletes that of one which is gone.
func (r *Records) write(ctx context.Context, owner string) error {
	to := place{kind: configMapKind(), namespace: r.namespace, name: recordName(owner)}
	ref := fault.Ref{Kind: "ConfigMap", Namespace: r.namespace, Name: to.name}
	r.mu.Lock()
	h, there := r.heads[owner]
	h.notes = maps.Clone(h.notes)
	r.mu.Unlock()
	if !there {
		err := r.self.delete(ctx, to, "")
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return clean(fault.StageApply, err, ref)
	}
	rec := Record{
		Version: recordVersion, Owner: owner, Fingerprint: h.fingerprint,
		Tenant: h.judged.Tenant, Identity: h.judged.Identity, Policies: h.judged.Policies, Objects: r.memory.records(owner), Notes: h.notes,
	}
	packed, err := rec.encode(r.zip)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": to.name, "namespace": r.namespace,
			"labels": map[string]any{RecordLabel: "kustomization"}, "annotations": map[string]any{RecordOwner: owner},
		},
		"binaryData": map[string]any{RecordKey: packed},
	})
	if err != nil {
		return err
	}
	_, err = r.self.apply(ctx, to, body, recordManager, false)
	return clean(fault.StageApply, err, ref)
}

// recordName is a name for any owner: namespace and name together may be longer than a name.
func recordName(owner string) string {
	sum := sha256.Sum256([]byte(owner))
	return "sealock-record-" + hex.EncodeToString(sum[:10])
}

// RecordName returns the name of the ConfigMap with the record of an owner.
func RecordName(namespace, name string) string { return recordName(namespace + "/" + name) }

func configMapKind() kindInfo {
	return kindInfo{gvk: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, resource: "configmaps", namespaced: true}
}

// has reports whether an object of the owner is known.
func (m *Memory) has(owner string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.owners[owner]) > 0
}

// records returns what is known of an owner, by id.
func (m *Memory) records(owner string) []RecordObject {
	m.mu.RLock()
	defer m.mu.RUnlock()
	out := make([]RecordObject, 0, len(m.owners[owner]))
	for id, b := range m.owners[owner] {
		out = append(out, toRecord(id, b))
	}
	slices.SortFunc(out, func(a, b RecordObject) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// list returns the objects of a kind in a namespace that carry the label.
func (c conn) list(ctx context.Context, of place, label string) (answer, error) {
	return c.send(ctx, c.rest.Get().SetHeader("Accept", "application/json").Param("labelSelector", label), of)
}
