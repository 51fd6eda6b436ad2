package cluster

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"sealock.dev/sealock/manifest"
)

// Limits of one persisted record. A ConfigMap may hold 1 MiB; an owner with more objects than fit keeps the rest in
// memory, and pays one dry-run for each of them after a restart.
const (
	recordBytes    = 900 << 10
	recordUnpacked = 64 << 20
	recordVersion  = 1
)

// Record is what is persisted of one owner: what its last run was made of, and the baseline of each of its objects. It
// holds keyed digests, names and places, and no value.
type Record struct {
	Version int    `json:"version"`
	Owner   string `json:"owner"` // "namespace/name"
	// Fingerprint identifies the inputs of the last run that was applied whole, "" when there is none.
	Fingerprint string `json:"fingerprint,omitempty"`
	// Tenant, Identity and Policies say who judged: the tenant, the user acted as, and the snapshot of the policies.
	Tenant   string         `json:"tenant,omitempty"`
	Identity string         `json:"identity,omitempty"`
	Policies string         `json:"policies,omitempty"`
	Objects  []RecordObject `json:"objects,omitempty"`
	// Notes are what controllers of Secrets remember, by object name; such a record has no Objects.
	Notes map[string]string `json:"notes,omitempty"`
}

// RecordObject is one object of a Record.
type RecordObject struct {
	ID        string    `json:"id"` // as in an inventory
	Version   string    `json:"v"`
	UID       string    `json:"uid"`
	Desired   []byte    `json:"desired"`
	Owned     []byte    `json:"owned"`
	Once      bool      `json:"once,omitempty"`
	File      string    `json:"file,omitempty"`
	Line      int       `json:"line,omitempty"`
	Revision  string    `json:"revision,omitempty"`
	Applied   time.Time `json:"applied,omitzero"`
	DriftedAt time.Time `json:"driftedAt,omitzero"`
	DriftedBy string    `json:"driftedBy,omitempty"`
}

// DecodeRecord reads what Records has persisted. The text comes from the cluster and may have been touched: it is
// bounded, and what does not fit is an error.
func DecodeRecord(packed []byte) (Record, error) {
	var r Record
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return r, fmt.Errorf("the record is not gzip: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(z, recordUnpacked+1))
	if err != nil {
		return r, fmt.Errorf("unpacking the record: %w", err)
	}
	if len(text) > recordUnpacked {
		return r, fmt.Errorf("the record unpacks to more than %d bytes", recordUnpacked)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("the record is not valid: %w", err)
	}
	if r.Version != recordVersion {
		return r, fmt.Errorf("the record has version %d, and %d is known", r.Version, recordVersion)
	}
	return r, nil
}

// encode packs the record with a writer that is used again: a new one costs a megabyte. Objects that do not fit are left out, the last first.
func (r Record) encode(z *gzip.Writer) ([]byte, error) {
	for {
		text, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		var out bytes.Buffer
		z.Reset(&out)
		if _, err := z.Write(text); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		if out.Len() <= recordBytes || len(r.Objects) == 0 {
			return out.Bytes(), nil
		}
		r.Objects = r.Objects[:len(r.Objects)*3/4]
		r.Fingerprint = "" // what is not compared must be looked at again
	}
}

func toRecord(id manifest.ID, b Baseline) RecordObject {
	return RecordObject{
		ID: id.String(), Version: id.Version, UID: b.UID, Desired: b.Desired[:], Owned: b.Owned[:], Once: b.Once,
		File: b.Origin.File, Line: b.Origin.Line, Revision: b.Origin.Revision, Applied: b.Origin.Applied,
		DriftedAt: b.Origin.Drift.At, DriftedBy: b.Origin.Drift.By,
	}
}

func fromRecord(o RecordObject) (manifest.ID, Baseline, error) {
	id, err := manifest.ParseID(o.ID, o.Version)
	b := Baseline{UID: o.UID, Once: o.Once, Origin: Origin{
		File: o.File, Line: o.Line, Revision: o.Revision, Applied: o.Applied, Drift: Drift{At: o.DriftedAt, By: o.DriftedBy},
	}}
	if copy(b.Desired[:], o.Desired) != len(b.Desired) || copy(b.Owned[:], o.Owned) != len(b.Owned) {
		return id, b, fmt.Errorf("a digest of %s has the wrong length", o.ID)
	}
	return id, b, err
}
