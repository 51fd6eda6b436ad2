package manifest

import (
	"encoding/base64"
	"slices"
	"strings"

	"sealock.dev/sealock/plaintext"
)

// stands says how the payload of a Secret stands in Git.
type stands int

const (
	hidden  stands = iota // not at all, or encrypted
	inData                // as it is, under data
	inClear               // as it is, under stringData
)

// liftSecret takes data and stringData out of the body; stringData wins, as in the API server.
func (o *Object) liftSecret(tokens *plaintext.Tokens) error {
	payloads := map[string]lifted{}
	for _, field := range []string{"data", "stringData"} {
		raw, present := o.body[field]
		delete(o.body, field)
		if !present || raw == nil {
			continue
		}
		m, ok := raw.(map[string]any)
		if !ok {
			return o.fail(field, "write a mapping of keys to values", "not a mapping")
		}
		for _, key := range slicesSorted(m) {
			l := lifted{path: []string{"data", key}, b64: true, stands: inData}
			if field == "stringData" {
				l.stands = inClear
			}
			if m[key] != nil { // the API server reads null as an empty value
				text, ok := m[key].(string)
				if !ok {
					return o.fail(field+"."+key, "quote it", "the value is not a string")
				}
				v, wasToken, err := o.payload(field, key, text, tokens)
				if err != nil {
					return err
				}
				if l.value = v; wasToken {
					l.stands = hidden
				}
			}
			if first, twice := payloads[key]; twice && first.stands != hidden && first.value.Len() > 0 {
				l.stands = inClear // what stringData hides from the cluster still stands in Git
			}
			payloads[key] = l
		}
	}
	if len(payloads) == 0 {
		return nil
	}
	masked := map[string]any{}
	for _, key := range slicesSorted(payloads) {
		masked[key] = plaintext.Mask
		o.lifted = append(o.lifted, payloads[key])
	}
	o.body["data"] = masked
	o.Origin = o.origin()
	return nil
}

// origin returns where the payloads come from: one value that stands in Git in the clear makes it a plain Secret.
func (o *Object) origin() Origin {
	opened := false
	for _, l := range o.lifted {
		switch {
		case l.path[0] != "data":
		case l.stands == hidden:
			opened = true
		case l.value.Len() > 0: // an empty value hides nothing, encrypted or not
			return Plain
		}
	}
	if opened {
		return SOPS
	}
	return Plain
}

// payload returns the decoded value of one key. A token may stand for the text of the field, or, where kustomize
// generated the Secret, inside the base64.
func (o *Object) payload(field, key, text string, tokens *plaintext.Tokens) (plaintext.Value, bool, error) {
	v, _, isToken := tokens.Resolve(text)
	if !isToken && plaintext.Contains(text) {
		return plaintext.Value{}, false, o.fail(field+"."+key, "remove the text that imitates a decrypted value", "unknown token")
	}
	if field == "stringData" {
		if isToken {
			return v, true, nil
		}
		return plaintext.FromString(text), false, nil
	}
	if isToken {
		decoded, err := plaintext.Derive(func(p ...[]byte) ([]byte, error) { return decodeBase64(string(p[0])) }, v)
		if err != nil {
			return plaintext.Value{}, false, o.fail(field+"."+key, "encode it, or encrypt it under stringData", "the decrypted value is not base64")
		}
		return decoded, true, nil
	}
	raw, err := decodeBase64(text)
	if err != nil {
		return plaintext.Value{}, false, o.fail(field+"."+key, "encode it, or write it under stringData", "the value is not base64")
	}
	if inner, _, ok := tokens.Resolve(string(raw)); ok {
		return inner, true, nil
	}
	if plaintext.Contains(string(raw)) {
		return plaintext.Value{}, false, o.fail(field+"."+key, "remove the text that imitates a decrypted value", "unknown token")
	}
	return plaintext.New(raw), false, nil
}

func decodeBase64(text string) ([]byte, error) {
	// The API server accepts line breaks inside base64, as YAML block scalars make them.
	clean := strings.NewReplacer("\n", "", "\r", "").Replace(text)
	return base64.StdEncoding.DecodeString(clean)
}

// SecretData returns the payloads of a Secret by key.
func (o Object) SecretData() map[string]plaintext.Value {
	out := map[string]plaintext.Value{}
	if !o.IsSecret() {
		return out
	}
	for _, l := range o.lifted {
		if len(l.path) == 2 && l.path[0] == "data" {
			out[l.path[1]] = l.value
		}
	}
	return out
}

// OpenData returns a copy in which the payloads of a Secret that stand in Git as they are, under data, are what open
// makes of them. A payload of which open says false stays, as do those under stringData and those that were opened before.
func (o Object) OpenData(open func(key string, v plaintext.Value) (plaintext.Value, bool)) Object {
	if !o.IsSecret() {
		return o
	}
	changed := false
	list := slices.Clone(o.lifted)
	for i, l := range list {
		if l.stands != inData || len(l.path) != 2 {
			continue
		}
		if v, ok := open(l.path[1], l.value); ok {
			list[i].value, list[i].stands, changed = v, hidden, true
		}
	}
	if changed {
		o.lifted = list
		o.Origin = o.origin()
	}
	return o
}
