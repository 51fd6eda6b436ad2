package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"

	"sealock.dev/sealock/decrypt"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/render"
	"sealock.dev/sealock/source"
)

// renderDir renders a folder of this machine as the controller renders it from Git. Files that are encrypted stay so:
// no key is needed, and their values are masked.
func renderDir(ctx context.Context, dir string) ([]manifest.Object, error) {
	root, below, err := repositoryOf(dir)
	if err != nil {
		return nil, err
	}
	disk, err := os.OpenRoot(root) // a link that leads out of the repository is not followed, as in the controller
	if err != nil {
		return nil, noFolder(dir)
	}
	defer disk.Close()
	folder, err := source.NewFolder(disk.FS())
	if err != nil {
		return nil, err
	}
	tokens := plaintext.NewTokens(plaintext.RandomKey())
	set, _, err := render.New(render.Options{Dir: below}).Render(ctx, &maskedFS{FS: folder, tokens: tokens}, tokens)
	if err != nil {
		return nil, err
	}
	return set, nil
}

// repositoryOf returns the root of the Git repository around dir, and dir relative to it; an overlay may refer to its
// base anywhere in between. Outside of a repository dir is the root.
func repositoryOf(dir string) (root, below string, err error) {
	full, err := filepath.Abs(dir)
	if err != nil {
		return "", "", err
	}
	if info, err := os.Stat(full); err != nil || !info.IsDir() {
		return "", "", noFolder(dir)
	}
	for root = full; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, ".git")); err == nil {
			break
		}
		if root == filepath.Dir(root) {
			return full, ".", nil
		}
	}
	below, err = filepath.Rel(root, full)
	return root, filepath.ToSlash(below), err
}

func noFolder(dir string) error {
	return fault.New("", fault.NotFound, fault.Ref{File: dir}, "no such folder").Fix("name a folder with manifests")
}

// maskedFS shows encrypted files with a token in place of each ciphertext, so that they render like opened ones.
type maskedFS struct {
	fs.FS
	tokens *plaintext.Tokens
	stands plaintext.Value // for each ciphertext
}

// What sops writes into a file: values, and its own metadata in YAML and in dotenv files.
var (
	ciphertext   = regexp.MustCompile(`ENC\[[A-Z0-9_]+,data:[^\]]*\]`)
	sopsBlock    = regexp.MustCompile(`(?m)^sops:[ \t]*\r?\n(?:[ \t]+.*\r?\n|\r?\n)*`)
	sopsVariable = regexp.MustCompile(`(?m)^sops_\w+=.*$`)
)

// mask returns the text of an encrypted file as that of one which was opened, lines where they were.
func (m *maskedFS) mask(name string, text []byte) []byte {
	secret := []byte(m.tokens.Issue(m.stands))
	token := func([]byte) []byte { return secret }
	switch path.Ext(name) {
	case ".yaml", ".yml":
		text = sopsBlock.ReplaceAllFunc(text, func(block []byte) []byte { return bytes.Repeat([]byte("\n"), bytes.Count(block, []byte("\n"))) })
		return ciphertext.ReplaceAllFunc(text, token)
	case ".json":
		var body map[string]json.RawMessage
		if json.Unmarshal(text, &body) != nil {
			return secret
		}
		delete(body, "sops")
		text, err := json.Marshal(body)
		if err != nil {
			return secret
		}
		return ciphertext.ReplaceAllFunc(text, token)
	case ".env":
		return ciphertext.ReplaceAllFunc(sopsVariable.ReplaceAll(text, nil), token)
	}
	return secret // a generator takes it whole
}

func (m *maskedFS) Open(name string) (fs.File, error) {
	file, err := m.FS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > int64(manifest.DefaultLimits.Bytes) {
		return file, err
	}
	text, err := io.ReadAll(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if decrypt.Encrypted(name, text) {
		text = m.mask(name, text)
	}
	return &maskedFile{Reader: bytes.NewReader(text), info: maskedInfo{info, int64(len(text))}}, nil
}

// ReadDir lists a folder.
func (m *maskedFS) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(m.FS, name) }

// ReadLink and Lstat keep links what they are.
func (m *maskedFS) ReadLink(name string) (string, error) { return fs.ReadLink(m.FS, name) }

// Lstat describes a link, not what it leads to.
func (m *maskedFS) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(m.FS, name) }

type maskedFile struct {
	*bytes.Reader
	info fs.FileInfo
}

func (f *maskedFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *maskedFile) Close() error               { return nil }

type maskedInfo struct {
	fs.FileInfo
	size int64
}

func (i maskedInfo) Size() int64 { return i.size }

// relative returns the file of an object as somebody in dir writes it.
func relative(dir, file string) string {
	_, below, err := repositoryOf(dir)
	if err != nil || file == "" {
		return file
	}
	rel, err := filepath.Rel(filepath.FromSlash(below), filepath.FromSlash(file))
	if err != nil {
		return file
	}
	return path.Join(filepath.ToSlash(dir), filepath.ToSlash(rel))
}
