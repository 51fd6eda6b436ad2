package decrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/getsops/sops/v3/keyservice"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// ageSuffix ends the entries of a Secret that hold age identities, as Flux names them.
const ageSuffix = ".agekey"

// maxDataKey bounds what an age file of the metadata may unwrap to: a data key has 32 bytes, a share of one 33.
const maxDataKey = 64

// Keys are age identities, and where they come from. The zero Keys hold none.
type Keys struct {
	from fault.Ref
	ids  []age.Identity
}

// Format prints where the keys come from, for every verb.
func (k Keys) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.where()) }

func (k Keys) where() string {
	if k.from.Name == "" {
		return "no Secret with keys"
	}
	return k.from.String()
}

// ParseKeys reads the entries of a Secret that end in .agekey: one native age identity on each line, comments allowed.
// Identities that would start a program or ask for a passphrase are refused. Errors name the entry and the line, never text.
func ParseKeys(from fault.Ref, data map[string]plaintext.Value) (Keys, error) {
	keys := Keys{from: from}
	names := make([]string, 0, len(data))
	for name := range data {
		if strings.HasSuffix(name, ageSuffix) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		for i, line := range strings.Split(string(data[name].Reveal()), "\n") {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			id, why := parseIdentity(line)
			if why != "" {
				return Keys{}, fault.New(fault.StageDecrypt, fault.Invalid, from, "line %d %s", i+1, why).At("data." + name).
					Fix("keep lines that begin with AGE-SECRET-KEY- only, as age-keygen writes them")
			}
			keys.ids = append(keys.ids, id)
		}
	}
	return keys, nil
}

func parseIdentity(line string) (age.Identity, string) {
	upper := strings.ToUpper(line)
	switch {
	case strings.HasPrefix(upper, "AGE-PLUGIN-"):
		return nil, "is an identity of an age plugin, which would start a program"
	case strings.HasPrefix(line, "-----BEGIN"):
		return nil, "begins an SSH key or an encrypted file, which Sealock does not serve"
	}
	ids, err := age.ParseIdentities(strings.NewReader(line)) // its errors may quote key material and are dropped
	if err != nil || len(ids) != 1 {
		return nil, "is not an age identity"
	}
	return ids[0], ""
}

// errRefused never leaves the package.
var errRefused = errors.New("refused")

// service unwraps data keys with the given identities and with nothing else. It stands in for the key service of the
// sops library, which would look for keys in the environment, in the home directory and in agents, and run programs.
type service struct {
	keyservice.UnimplementedKeyServiceServer
	ids []age.Identity
}

// Decrypt unwraps one data key. Key types other than age are refused.
func (s service) Decrypt(_ context.Context, req *keyservice.DecryptRequest) (*keyservice.DecryptResponse, error) {
	if _, ok := req.GetKey().GetKeyType().(*keyservice.Key_AgeKey); !ok || len(s.ids) == 0 {
		return nil, errRefused
	}
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(req.GetCiphertext())), slices.Clone(s.ids)...)
	if err != nil {
		return nil, errRefused
	}
	key, err := io.ReadAll(io.LimitReader(r, maxDataKey+1))
	if err != nil || len(key) > maxDataKey {
		return nil, errRefused
	}
	return &keyservice.DecryptResponse{Plaintext: key}, nil
}

// Encrypt is refused: this side only opens.
func (s service) Encrypt(context.Context, *keyservice.EncryptRequest) (*keyservice.EncryptResponse, error) {
	return nil, errRefused
}
