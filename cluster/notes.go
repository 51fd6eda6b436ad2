package cluster

import "context"

// Notes are lines that a controller remembers of its objects beyond a restart, one record for each namespace. A line must
// hold no value: digests and versions only. Losing one costs the work that it would have spared.
type Notes struct {
	records *Records
	kind    string
}

// Notes returns the notes of a kind of object.
func (r *Records) Notes(kind string) *Notes { return &Notes{records: r, kind: kind} }

func (n *Notes) owner(namespace string) string { return n.kind + ":" + namespace }

// Recall returns what was noted of an object, "" when nothing was.
func (n *Notes) Recall(ctx context.Context, namespace, name string) (string, error) {
	if err := n.records.Load(ctx); err != nil {
		return "", err
	}
	n.records.mu.Lock()
	defer n.records.mu.Unlock()
	return n.records.heads[n.owner(namespace)].notes[name], nil
}

// Note remembers a line of an object; "" forgets it.
func (n *Notes) Note(namespace, name, line string) {
	r, owner := n.records, n.owner(namespace)
	r.mu.Lock()
	h := r.heads[owner]
	if h.notes[name] == line {
		r.mu.Unlock()
		return
	}
	if h.notes == nil {
		h.notes = map[string]string{}
	}
	if h.notes[name] = line; line == "" {
		delete(h.notes, name)
	}
	if r.heads[owner] = h; len(h.notes) == 0 {
		delete(r.heads, owner)
	}
	r.mu.Unlock()
	r.touch(owner)
}
