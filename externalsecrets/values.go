package externalsecrets

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"

	"github.com/tidwall/gjson"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// pick takes the value of one item out of a secret. Errors are of the item and name what is missing, never what is there.
func pick(fields Fields, ref v1.RemoteRef) (plaintext.Value, error) {
	return plaintext.Derive(func(p ...[]byte) (out []byte, err error) {
		defer func() {
			if recover() != nil { // gjson on a hostile property
				err = itemFault(fault.Invalid, "remoteRef.property", "correct the property", "the property of %s cannot be evaluated", fields.Name)
			}
		}()
		raw, err := property(p[0], ref.Property, fields.Name)
		if err != nil {
			return nil, err
		}
		if raw, err = decoded(raw, ref.DecodingStrategy); err != nil {
			return nil, err
		}
		if ref.NullBytePolicy == "Fail" && bytes.IndexByte(raw, 0) >= 0 {
			return nil, itemFault(fault.Invalid, "remoteRef.nullBytePolicy", "remove it from the secret, or use Ignore", "the value of %s has a null byte", fields.Name)
		}
		return raw, nil
	}, fields.JSON)
}

func itemFault(kind fault.Kind, field, remedy, format string, args ...any) error {
	return fault.New(fault.StageOpen, kind, fault.Ref{}, format, args...).At(field).Fix("%s", remedy)
}

// property returns the whole object as JSON, or what the name stands for: a field of that very name, or a gjson path.
func property(object []byte, name, where string) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	dec.UseNumber() // numbers keep all their digits
	var m map[string]any
	if dec.Decode(&m) != nil || m == nil {
		return nil, itemFault(fault.Invalid, "remoteRef.key", "write the secret as keys and values", "the secret at %s is not a JSON object", where)
	}
	whole, err := json.Marshal(m) // sorted, < > & escaped: byte for byte what external-secrets makes
	if err != nil {
		return nil, itemFault(fault.Invalid, "remoteRef.key", "write the secret as keys and values", "the secret at %s is not a JSON object", where)
	}
	if name == "" {
		return whole, nil
	}
	if v, ok := m[name]; ok {
		return scalar(v)
	}
	if found := gjson.GetBytes(whole, name); found.Exists() {
		return []byte(found.String()), nil
	}
	return nil, itemFault(fault.NotFound, "remoteRef.property", "add it to the secret, or correct the name", "the secret at %s has no property %q", where, name)
}

func scalar(v any) ([]byte, error) {
	switch s := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []byte(s), nil
	case bool:
		return strconv.AppendBool(nil, s), nil
	case json.Number:
		return []byte(s.String()), nil
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil, itemFault(fault.Invalid, "remoteRef.property", "write it as JSON", "the value has no JSON form")
	}
	return out, nil
}

func decoded(raw []byte, strategy string) ([]byte, error) {
	switch strategy {
	case "", "None":
		return raw, nil
	case "Base64":
		if out, err := base64.StdEncoding.DecodeString(string(raw)); err == nil {
			return out, nil
		}
	case "Base64URL":
		if out, err := base64.URLEncoding.DecodeString(string(raw)); err == nil {
			return out, nil
		}
	case "Auto":
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
			if out, err := enc.DecodeString(string(raw)); err == nil {
				return out, nil
			}
		}
		return raw, nil
	default:
		return nil, itemFault(fault.Invalid, "remoteRef.decodingStrategy", "use None, Base64, Base64URL or Auto", "the strategy is not known")
	}
	return nil, itemFault(fault.Invalid, "remoteRef.decodingStrategy", "use None or Auto, or encode the value", "the value is not %s", strategy)
}
