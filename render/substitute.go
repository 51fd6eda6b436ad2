package render

import (
	"bytes"
	"errors"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// substituteKey switches substitution off for an object, as label or annotation with the value "disabled".
const substituteKey = "kustomize.toolkit.fluxcd.io/substitute"

var variableName = regexp.MustCompile(`^[_[:alpha:]][_[:alpha:][:digit:]]*$`)

// variable is one value for substitution. One from a Secret is never looked at as text.
type variable struct {
	text   string
	value  plaintext.Value
	secret bool
}

// substitution replaces variables in the objects of one build.
type substitution struct {
	vars   map[string]variable
	tokens *plaintext.Tokens
	on     bool

	template bool // decrypted values are expanded like everything else
}

func newSubstitution(o Options, tokens *plaintext.Tokens) (*substitution, error) {
	s := &substitution{vars: map[string]variable{}, tokens: tokens, template: o.DecryptedTemplates}
	for _, from := range o.SubstituteFrom {
		if err := s.add(from); err != nil {
			return nil, err
		}
	}
	if err := s.add(Variables{Public: o.Substitute}); err != nil {
		return nil, err
	}
	s.on = len(s.vars) > 0 || o.SubstituteAlways
	return s, nil
}

// add takes the variables of one source over earlier ones. A line break could begin a new key of the manifest: they are
// removed, as Flux does.
func (s *substitution) add(from Variables) error {
	for name, v := range from.Public {
		flat := strings.ReplaceAll(v, "\n", "")
		if plaintext.Contains(flat) {
			return badVariable("the variable %q imitates a decrypted value", name)
		}
		s.vars[name] = variable{text: flat, value: plaintext.FromString(flat)}
	}
	for name, v := range from.Secret {
		if s.tokens == nil {
			return fault.New(fault.StageRender, fault.Internal, fault.Ref{}, "variables of a Secret need a table of tokens")
		}
		flat, err := plaintext.Derive(func(p ...[]byte) ([]byte, error) { return bytes.ReplaceAll(p[0], []byte("\n"), nil), nil }, v)
		if err != nil {
			return err
		}
		s.vars[name] = variable{text: s.issue(flat), value: flat, secret: true}
	}
	for name := range s.vars {
		if !variableName.MatchString(name) {
			return badVariable("'%s' var name is invalid, must match '%s'", name, variableName)
		}
	}
	return nil
}

func badVariable(format string, args ...any) error {
	return fault.New(fault.StageRender, fault.Invalid, fault.Ref{}, format, args...).At("spec.postBuild").
		Fix("use letters, digits and underscores in names, beginning with a letter or underscore")
}

// apply returns the body with variables replaced. It works on the text of the object, as Flux does, so that a value
// like 8080 or true becomes a number or boolean where the manifest does not quote it.
func (s *substitution) apply(it item) (map[string]any, error) {
	if !s.on || switchedOff(it.body) {
		return it.body, nil
	}
	fail := func(remedy, format string, args ...any) error {
		return fault.New(fault.StageRender, fault.Invalid, it.ref(), format, args...).At("spec.postBuild").Fix("%s", remedy)
	}
	if err := s.inside(it.body, nil, it.body["kind"] == "Secret"); err != nil {
		return nil, fail("correct the expression in the encrypted value, or disable substitution for the object by annotation", "%s", err.Error())
	}
	raw, err := yaml.Marshal(it.body)
	if err != nil {
		return nil, fail("use values that JSON knows", "the object is not JSON")
	}
	if !strings.Contains(string(raw), "$") {
		return it.body, nil
	}
	out, err := expand(string(raw), s.lookup)
	if err != nil {
		return nil, fail("declare the variable, give it a default, or write $${name} for a literal", "%s", err.Error())
	}
	docs, err := manifest.Decode(it.src.File, []byte(out), manifest.DefaultLimits)
	if err != nil || len(docs) != 1 {
		return nil, fail("quote the variable in the manifest", "the object is not valid YAML after substitution")
	}
	if err := manifest.RequireIdentity(docs[0].Body, it.ref()); err != nil {
		return nil, err
	}
	return docs[0].Body, nil
}

func switchedOff(body map[string]any) bool {
	meta, _ := body["metadata"].(map[string]any)
	for _, field := range []string{"labels", "annotations"} {
		m, _ := meta[field].(map[string]any)
		if text(m[substituteKey]) == "disabled" {
			return true
		}
	}
	return false
}

// lookup returns a variable for the text of an object: what a function makes of a secret is a secret of its own.
func (s *substitution) lookup(name string) (operand, bool) {
	v, ok := s.vars[name]
	if !ok {
		return operand{}, false
	}
	if !v.secret {
		return operand{text: v.text, empty: v.text == ""}, true
	}
	return operand{text: v.text, empty: v.value.Len() == 0, derive: func(fn func(string) (string, error)) (string, error) {
		derived, err := plaintext.Derive(func(p ...[]byte) ([]byte, error) {
			out, err := fn(string(p[0]))
			return []byte(out), err
		}, v.value)
		if err != nil {
			return "", err
		}
		return s.issue(derived), nil
	}}, true
}

// typed is what is no string where it fills a field, and the same text where it does not.
var typed = regexp.MustCompile(`^(true|false|null|-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?)$`)

// issue returns the token of a secret variable: where it stands alone it has the type that its text has in YAML.
func (s *substitution) issue(v plaintext.Value) string {
	token := s.tokens.Issue(v)
	_, _ = plaintext.Derive(func(p ...[]byte) ([]byte, error) {
		if typed.Match(p[0]) {
			token = s.tokens.IssueJSON(v)
		}
		return nil, nil
	}, v)
	return token
}

var errInside = errors.New("an encrypted value has an expression that cannot be substituted")

// inside substitutes within values that were decrypted, unseen. Flux takes their text for a template like any other,
// which changes a password; here it is one only where every expression in it names a variable of this build. The data of
// a Secret is base64 and is left alone.
func (s *substitution) inside(v any, path []string, isSecret bool) error {
	each := func(key string, child any, set func(string)) error {
		str, ok := child.(string)
		if !ok {
			return s.inside(child, append(path[:len(path):len(path)], key), isSecret)
		}
		if s.tokens == nil || !plaintext.Contains(str) {
			return nil
		}
		value, isJSON, ok := s.tokens.Resolve(str)
		if !ok || isJSON {
			return nil
		}
		out, err := s.derive(value)
		if err != nil {
			return err
		}
		if !out.Equal(value) {
			set(s.tokens.Issue(out))
		}
		return nil
	}
	switch node := v.(type) {
	case map[string]any:
		for k, child := range node {
			if isSecret && len(path) == 0 && k == "data" {
				continue
			}
			if err := each(k, child, func(t string) { node[k] = t }); err != nil {
				return err
			}
		}
	case []any:
		for i, child := range node {
			if err := each("", child, func(t string) { node[i] = t }); err != nil {
				return err
			}
		}
	}
	return nil
}

// derive substitutes in the text of a secret value. An error does not say what was in it.
func (s *substitution) derive(value plaintext.Value) (plaintext.Value, error) {
	from := []plaintext.Value{value}
	at := map[string]int{}
	for name, v := range s.vars {
		at[name] = len(from)
		from = append(from, v.value)
	}
	return plaintext.Derive(func(p ...[]byte) ([]byte, error) {
		if !strings.Contains(string(p[0]), "$") {
			return p[0], nil
		}
		foreign := false
		lookup := func(name string) (operand, bool) {
			i, ok := at[name]
			if foreign = foreign || !ok; !ok {
				return operand{}, false
			}
			return operand{text: string(p[i]), empty: len(p[i]) == 0}, true
		}
		expanded := expand
		if !s.template {
			expanded = expandVerbatim
		}
		out, err := expanded(string(p[0]), lookup)
		switch {
		case err != nil && (s.template || errors.Is(err, errTooLong) || errors.Is(err, errPattern)):
			return nil, errInside
		case !s.template && (err != nil || foreign):
			return p[0], nil // a password or a script: what it has in braces is not ours
		}
		return []byte(out), nil
	}, from...)
}
