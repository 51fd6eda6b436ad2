package decrypt

import (
	"crypto/subtle"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/config"
	"github.com/getsops/sops/v3/keyservice"
	"github.com/getsops/sops/v3/stores/dotenv"
	"github.com/getsops/sops/v3/stores/ini"
	"github.com/getsops/sops/v3/stores/json"
	sopsyaml "github.com/getsops/sops/v3/stores/yaml"
	"go.yaml.in/yaml/v3"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// maxRule bounds the regular expressions of the metadata, which the library compiles once for each value.
const maxRule = 1024

// store is what is used of the stores of the library.
type store interface {
	LoadEncryptedFile(in []byte) (sops.Tree, error)
	EmitPlainFile(branches sops.TreeBranches) ([]byte, error)
}

func storeFor(f format) store {
	c := config.NewStoresConfig()
	switch f {
	case yamlFormat:
		return sopsyaml.NewStore(&c.YAML)
	case jsonFormat:
		return json.NewStore(&c.JSON)
	case dotenvFormat:
		return dotenv.NewStore(&c.Dotenv)
	case iniFormat:
		return ini.NewStore(&c.INI)
	case binaryFormat, plain:
	}
	return json.NewBinaryStore(&c.JSONBinary)
}

// sopsFile is one file on its way from ciphertext to plaintext.
type sopsFile struct {
	ref    fault.Ref
	format format
	tree   sops.Tree
	cipher *cipher
	nodes  []*yaml.Node
	docs   []manifest.Document
}

// openFile decrypts one file and returns it with tokens. key is the name under which a generator takes it whole.
func (f *Files) openFile(name string, data []byte, format format, u use, key string, tokens *plaintext.Tokens) (out []byte, err error) {
	s := &sopsFile{ref: fault.Ref{File: name}, format: format}
	err = s.guarded(func() error {
		if u == asDocuments && format != yamlFormat && format != jsonFormat {
			return s.fail(fault.Invalid, "the encrypted file is neither YAML nor JSON, and is used as a manifest").Fix("name it .yaml and encrypt it as YAML")
		}
		if err := f.unlock(s, data, u == asWhole); err != nil {
			return err
		}
		switch u {
		case asDocuments:
			out, err = s.documents(tokens)
			return err
		case asLines:
			out, err = s.lines(tokens)
			return err
		case asWhole:
		}
		s.retype()
		whole, err := s.whole(formatOfKey(key))
		if err == nil {
			out = []byte(tokens.Issue(plaintext.New(whole)))
		}
		return err
	})
	return out, err
}

// guarded turns a panic of the library, which hostile input has caused before, into an error without words of its own.
func (s *sopsFile) guarded(fn func() error) (err error) {
	defer func() {
		if recover() != nil {
			err = s.fail(fault.Invalid, "the encrypted file is damaged").Fix("encrypt it again with sops")
		}
	}()
	return fn()
}

// unlock decrypts data into the tree, if that is allowed and nobody changed it.
func (f *Files) unlock(s *sopsFile, data []byte, comments bool) (err error) {
	if limit := manifest.DefaultLimits.Bytes; len(data) > limit {
		return s.fail(fault.Invalid, "the encrypted file has %d bytes, more than the limit of %d", len(data), limit).Fix("split it")
	}
	if err := s.bound(data); err != nil {
		return err
	}
	if s.tree, err = storeFor(s.format).LoadEncryptedFile(data); err != nil {
		return s.fail(fault.Invalid, "the metadata of the encrypted file is incomplete or damaged").Fix("encrypt it again with sops")
	}
	if err := f.allowed(s); err != nil {
		return err
	}
	key, err := f.dataKey(s)
	if err != nil {
		return err
	}
	return s.decrypt(key, comments)
}

func (s *sopsFile) fail(kind fault.Kind, format string, args ...any) *fault.Error {
	return fault.New(fault.StageDecrypt, kind, s.ref, format, args...)
}

// bound refuses what makes the library overflow its stack or fill the memory: aliases, cycles, depth. For JSON and YAML
// it keeps the documents, whose lines and types are those that a plain file would have.
func (s *sopsFile) bound(data []byte) error {
	if s.format == dotenvFormat || s.format == iniFormat {
		return nil
	}
	var bad *yaml.Node
	_ = eachDocument(data, func(doc *yaml.Node) bool {
		s.nodes = append(s.nodes, doc)
		bad = findAlias(doc, 0)
		return bad == nil
	})
	if bad != nil {
		err := s.fail(fault.Invalid, "YAML anchors, aliases, merge keys and deep nesting are refused in encrypted files").Fix("write the values out")
		err.Ref.Line = bad.Line
		return err
	}
	docs, err := manifest.Decode(s.ref.File, data, manifest.DefaultLimits)
	if err != nil {
		for _, e := range fault.All(err) {
			e.Stage = fault.StageDecrypt
		}
		return err
	}
	s.docs = docs
	return nil
}

func findAlias(n *yaml.Node, depth int) *yaml.Node {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || depth > manifest.DefaultLimits.Depth || n.Kind == yaml.ScalarNode && n.ShortTag() == "!!merge" {
		return n
	}
	for _, c := range n.Content {
		if bad := findAlias(c, depth+1); bad != nil {
			return bad
		}
	}
	return nil
}

// allowed decides by the metadata, before anything is decrypted.
func (f *Files) allowed(s *sopsFile) error {
	m := s.tree.Metadata
	if m.MessageAuthenticationCode == "" {
		return s.fail(fault.Invalid, "the encrypted file has no MAC").At("sops.mac").Fix("encrypt it again with sops")
	}
	for _, rule := range []string{m.EncryptedRegex, m.UnencryptedRegex, m.EncryptedCommentRegex, m.UnencryptedCommentRegex} {
		if len(rule) > maxRule {
			return s.fail(fault.Invalid, "a rule of the encrypted file has more than %d characters", maxRule).At("sops").Fix("shorten the rule")
		}
	}
	if f.opts.Tenant && m.MACOnlyEncrypted {
		return s.fail(fault.Denied, "the MAC covers encrypted values only, so that all others, as kind and name, could be changed").
			At("sops.mac_only_encrypted").Fix("encrypt it again without mac_only_encrypted")
	}
	if len(f.opts.Recipients) == 0 {
		return nil
	}
	for _, group := range m.KeyGroups {
		for _, key := range group {
			if !slices.Contains(f.opts.Recipients, key.ToString()) {
				return s.fail(fault.Denied, "the file is encrypted to %q, which is not a recipient of this tenant", short(key.ToString())).
					At("sops."+key.TypeToIdentifier()).Fix("encrypt it to %s only", shortList(f.opts.Recipients))
			}
		}
	}
	return nil
}

func (f *Files) dataKey(s *sopsFile) ([]byte, error) {
	var recipients, others []string
	for _, group := range s.tree.Metadata.KeyGroups {
		for _, key := range group {
			if typ := key.TypeToIdentifier(); typ == "age" {
				recipients = append(recipients, key.ToString())
			} else if !slices.Contains(others, typ) {
				others = append(others, typ)
			}
		}
	}
	sort.Strings(others)
	if len(recipients) == 0 {
		if len(others) == 0 {
			return nil, s.fail(fault.Invalid, "the encrypted file names no key").At("sops").Fix("encrypt it again with sops")
		}
		return nil, s.fail(fault.NoKey, "the file is encrypted with %s, which Sealock does not serve yet", strings.Join(others, ", ")).
			At("sops").Fix("add an age recipient with sops updatekeys")
	}
	if len(f.opts.Keys.ids) > 0 {
		client := keyservice.NewCustomLocalClient(service{ids: f.opts.Keys.ids})
		if key, err := s.tree.Metadata.GetDataKeyWithKeyServices([]keyservice.KeyServiceClient{client}, []string{"age"}); err == nil {
			return key, nil
		}
	}
	held := "has no identity for any of them"
	if len(f.opts.Keys.ids) == 0 {
		held = "has no entry that ends in " + ageSuffix
	}
	if f.opts.Keys.from.Name == "" {
		held = "is referred to"
	}
	return nil, s.fail(fault.NoKey, "the file is encrypted to %s; %s %s", shortList(recipients), f.opts.Keys.where(), held).
		At("sops.age").Fix("add the identity to the Secret that spec.decryption names, or run sops updatekeys to add its recipient to the file")
}

// maxRecipient is how much of a recipient an error shows: one of a post-quantum key has two thousand characters.
const maxRecipient = 80

func short(recipient string) string {
	if len(recipient) > maxRecipient {
		return strings.ToValidUTF8(recipient[:maxRecipient], "") + "..."
	}
	return recipient
}

func shortList(recipients []string) string {
	out := make([]string, len(recipients))
	for i, r := range recipients {
		out[i] = short(r)
	}
	return strings.Join(out, ", ")
}

// decrypt opens the tree in place, and checks the MAC over all of it.
func (s *sopsFile) decrypt(key []byte, comments bool) error {
	s.cipher = newCipher(comments)
	got, err := s.tree.Decrypt(key, s.cipher)
	if err != nil {
		why := s.cipher.why
		if why == "" {
			why = "a value of the file does not decrypt"
		}
		return s.fail(fault.Denied, "%s", why).At(s.cipher.at).Fix("encrypt the file again with sops")
	}
	m := s.tree.Metadata
	want, ok := newCipher(false).open(m.MessageAuthenticationCode, macType(m.MessageAuthenticationCode), key, m.LastModified.Format(time.RFC3339))
	// The MAC is a plain hash of the values: neither side of the comparison may be shown.
	if !ok || subtle.ConstantTimeCompare([]byte(want), []byte(got)) != 1 {
		return s.fail(fault.Denied, "the MAC does not match; the file was changed after it was encrypted").At("sops.mac").
			Fix("restore the file, or edit and encrypt it with sops")
	}
	return nil
}

func macType(text string) string {
	if m := shape.FindStringSubmatch(text); m != nil {
		return m[4]
	}
	return "str"
}
