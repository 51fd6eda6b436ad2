package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/sealing"
)

// sealFlags are named as those of kubeseal.
type sealFlags struct {
	cluster clusterFlags
	source  certificateSource

	in, out, format  string
	name, namespace  string
	scope            string
	allowEmpty       bool
	raw, fetch       bool
	fromFile         []string
	scopeOfFlag      sealing.Scope // "" when --scope was not given
	contextNamespace func() string // "" when the kubeconfig sets none
}

func newSealCommand() *cobra.Command {
	f := &sealFlags{}
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Turn Secrets into SealedSecrets that only the cluster opens",
		Long: `seal reads Secrets (YAML or JSON, one or many documents) and writes a SealedSecret for each. What it prints may stand in
Git. Flags and rules are those of kubeseal, and either tool's output opens in a cluster of the other.

The certificate comes from --cert or SEALED_SECRETS_CERT, else from the controller through the API server, else from the
ConfigMap sealed-secrets-cert in the controller's namespace. The format is that of -o, else that of the name given with -w,
else that of the input. Finalizers, owners and whatever else belongs to one cluster only are left out.`,
		Example: `  kubectl create secret generic db --from-literal=password=... --dry-run=client -o yaml | sealock seal > db.yaml
  sealock seal -f secret.yaml -w sealed.yaml --cert https://sealed.example.com/v1/cert.pem
  sealock seal --raw --name db --namespace team-a --from-file password.txt
  sealock seal --fetch-cert > cert.pem`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	f.cluster.add(flags)
	flags.StringVar(&f.source.cert, "cert", "", "Certificate to seal with: a file, file:// or http(s):// URL.")
	flags.StringVar(&f.source.namespace, "controller-namespace", "sealock-system", "Namespace of the controller.")
	flags.StringVar(&f.source.name, "controller-name", "sealed-secrets-controller", "Name of the controller's Service.")
	flags.BoolVar(&f.fetch, "fetch-cert", false, "Print the certificate and do nothing else.")
	flags.StringVarP(&f.in, "secret-file", "f", "", "File to read; by default stdin.")
	flags.StringVarP(&f.out, "sealed-secret-file", "w", "", "File to write; by default stdout.")
	flags.StringVarP(&f.format, "format", "o", "", "json or yaml.")
	flags.StringVar(&f.scope, "scope", "", "strict, namespace-wide or cluster-wide; by default as the Secret's annotations say, else strict.")
	flags.StringVarP(&f.namespace, "namespace", "n", "", "Namespace of Secrets that name none; by default that of the kubeconfig's context.")
	flags.StringVar(&f.name, "name", "", "Name to give the Secret.")
	flags.BoolVar(&f.allowEmpty, "allow-empty-data", false, "Seal a Secret without data.")
	flags.BoolVar(&f.raw, "raw", false, "Seal one value of --from-file, and print it without a line break.")
	flags.StringSliceVar(&f.fromFile, "from-file", nil, "With --raw: the file that holds the value; /dev/stdin reads stdin.")
	return cmd
}

func (f *sealFlags) run(cmd *cobra.Command) error {
	if err := f.check(); err != nil {
		return err
	}
	if f.contextNamespace == nil {
		f.contextNamespace = f.cluster.namespace
	}
	f.source.fromEnvironment(cmd.Flags())
	f.source.config = f.cluster.config
	f.source.progress = cmd.ErrOrStderr()
	cert, err := f.source.certificate(cmd.Context())
	if err != nil {
		return err
	}
	switch {
	case f.fetch:
		_, err = cmd.OutOrStdout().Write(cert.PEM())
		return err
	case f.raw:
		return f.sealRaw(cmd, cert)
	}
	return f.sealAll(cmd, cert)
}

// check refuses what cannot be meant, before anything is read.
func (f *sealFlags) check() error {
	if f.scope != "" {
		scope, err := sealing.ParseScope(f.scope)
		if err != nil {
			return wrongUse("--scope: %w", err)
		}
		f.scopeOfFlag = scope
	}
	switch {
	case f.format != "" && f.format != "json" && f.format != "yaml":
		return wrongUse("--format: unknown format %q", f.format).Fix("write json or yaml")
	case len(f.fromFile) > 0 && !f.raw:
		return wrongUse("--from-file requires --raw").Fix("give a whole Secret with -f or stdin, or add --raw")
	case f.raw && len(f.fromFile) != 1:
		return wrongUse("--raw seals one value").Fix("name its file with --from-file, once")
	}
	return nil
}

func (f *sealFlags) sealRaw(cmd *cobra.Command, cert *sealing.Certificate) error {
	scope, namespace := f.scopeOfFlag, f.namespace
	if scope == "" {
		scope = sealing.Strict
	}
	if namespace == "" {
		namespace = f.contextNamespace()
	}
	if scope == sealing.Strict && f.name == "" {
		return wrongUse("the scope strict binds to a name").Fix("must provide the --name flag with --raw and --scope strict")
	}
	if scope != sealing.ClusterWide && namespace == "" {
		return wrongUse("the scope %s binds to a namespace", scope).Fix("must provide the --namespace flag with --raw and --scope %s", scope)
	}
	path := f.fromFile[0]
	if _, after, named := strings.Cut(path, "="); named {
		path = after
	}
	value, err := readInput(cmd.InOrStdin(), path)
	if err != nil {
		return err
	}
	text, err := sealing.SealValue(plaintext.New(value), scope, namespace, f.name, cert, time.Now())
	if err != nil {
		return err
	}
	return f.write(cmd.OutOrStdout(), []byte(text))
}

func (f *sealFlags) sealAll(cmd *cobra.Command, cert *sealing.Certificate) error {
	text, err := readInput(cmd.InOrStdin(), f.in)
	if err != nil {
		return err
	}
	docs, isJSON, err := documents(f.in, text)
	if err != nil {
		return err
	}
	if len(docs) == 0 {
		return wrongUse("there is no Secret in the input").Fix("give one with -f or stdin")
	}
	var out bytes.Buffer
	var errs []error
	for _, d := range docs {
		body, err := f.seal(d, cert)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, encode(&out, body, f.outputJSON(isJSON)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return f.write(cmd.OutOrStdout(), out.Bytes())
}

func (f *sealFlags) outputJSON(input bool) bool {
	switch ext := filepath.Ext(f.out); {
	case f.format != "":
		return f.format == "json"
	case ext == ".yaml" || ext == ".yml":
		return false
	case ext == ".json":
		return true
	}
	return input
}

// seal returns the SealedSecret of one document, name and namespace settled.
func (f *sealFlags) seal(d manifest.Document, cert *sealing.Certificate) (map[string]any, error) {
	meta, _ := d.Body["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		d.Body["metadata"] = meta
	}
	if f.name != "" {
		meta["name"] = f.name
	}
	secret, err := manifest.New(d.Body, manifest.Source{File: f.in, Line: d.Line}, nil)
	if err != nil {
		return nil, err
	}
	have := secret.Namespace()
	if f.namespace != "" && have != "" && have != f.namespace {
		return nil, fault.New("", fault.Invalid, secret.Ref(), "namespace mismatch: the Secret is in namespace %q and --namespace says %q", have, f.namespace).
			At("metadata.namespace").Fix("leave one of them out")
	}
	scope := f.scopeOfFlag
	if scope == "" {
		scope = sealing.ScopeOf(secret.Annotations())
	}
	if have == "" && scope != sealing.ClusterWide {
		secret = secret.WithNamespace(f.defaultNamespace())
	}
	return sealing.SealSecret(secret, cert, sealing.SealOptions{Scope: f.scopeOfFlag, AllowEmpty: f.allowEmpty, Now: time.Now()})
}

func (f *sealFlags) defaultNamespace() string {
	if f.namespace != "" {
		return f.namespace
	}
	if ns := f.contextNamespace(); ns != "" {
		return ns
	}
	return "default"
}

// namespace returns that of the context in use, "" when it names none.
func (c *clusterFlags) namespace() string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	raw, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{}).RawConfig()
	if err != nil {
		return ""
	}
	name := raw.CurrentContext
	if c.context != "" {
		name = c.context
	}
	if context := raw.Contexts[name]; context != nil {
		return context.Namespace
	}
	return ""
}

// documents reads YAML documents, or JSON values that follow each other.
func documents(file string, text []byte) (docs []manifest.Document, isJSON bool, err error) {
	if trimmed := bytes.TrimSpace(text); len(trimmed) == 0 || trimmed[0] != '{' {
		docs, err = manifest.Decode(file, text, manifest.DefaultLimits)
		return docs, false, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	for {
		var one json.RawMessage
		err := dec.Decode(&one)
		if errors.Is(err, io.EOF) {
			return docs, true, nil
		}
		if err != nil { // flow style YAML begins in the same way; its parser also names the line
			docs, err = manifest.Decode(file, text, manifest.DefaultLimits)
			return docs, false, err
		}
		more, err := manifest.Decode(file, one, manifest.DefaultLimits)
		if err != nil {
			return nil, true, err
		}
		docs = append(docs, more...)
	}
}

// encode writes one document; it holds no plaintext.
func encode(out *bytes.Buffer, body map[string]any, asJSON bool) error {
	if asJSON {
		text, err := json.MarshalIndent(body, "", "  ")
		if err != nil {
			return err
		}
		out.Write(append(text, '\n'))
		return nil
	}
	text, err := yaml.Marshal(body)
	if err != nil {
		return err
	}
	out.WriteString("---\n")
	out.Write(text)
	return nil
}

// readInput reads a file, or stdin for "", "-" and /dev/stdin.
func readInput(stdin io.Reader, path string) ([]byte, error) {
	if path == "" || path == "-" || path == "/dev/stdin" {
		text, err := io.ReadAll(stdin)
		if err != nil {
			return nil, wrongUse("stdin cannot be read")
		}
		return text, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fileFault(path, err)
	}
	return text, nil
}

func fileFault(path string, err error) error {
	var cause *os.PathError
	if errors.As(err, &cause) {
		err = cause.Err
	}
	kind := fault.Invalid
	if errors.Is(err, os.ErrNotExist) {
		kind = fault.NotFound
	}
	return fault.New("", kind, fault.Ref{File: path}, "%w", err).Fix("check the path and its permissions")
}

// write prints, or replaces the file of -w in one step. What is written is ciphertext.
func (f *sealFlags) write(stdout io.Writer, text []byte) error {
	if f.out == "" {
		_, err := stdout.Write(text)
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(f.out), "."+filepath.Base(f.out)+".*")
	if err != nil {
		return fileFault(f.out, err)
	}
	defer os.Remove(temp.Name()) //nolint:errcheck // gone already when all went well
	_, err = temp.Write(text)
	if err := errors.Join(err, temp.Chmod(0o644), temp.Close()); err != nil {
		return fileFault(f.out, err)
	}
	if err := os.Rename(temp.Name(), f.out); err != nil {
		return fmt.Errorf("%w", fileFault(f.out, err))
	}
	return nil
}
