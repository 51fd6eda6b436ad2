package decrypt

import (
	"bytes"
	"io"
	"io/fs"
	"sync"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// maxRead bounds what is read to find out whether a file is encrypted.
const maxRead = 32 << 20

// view is the file system that the build sees. It passes everything through but the files that are, or may be,
// encrypted: those are held in memory, ciphertext replaced by tokens.
type view struct {
	under  fs.FS
	files  *Files
	tokens *plaintext.Tokens
	uses   map[string]use
	keys   map[string]string
	kept   map[string]bool

	mu   sync.Mutex
	seen map[string]result
}

type result struct {
	data []byte
	err  error
}

var (
	_ fs.ReadFileFS = (*view)(nil)
	_ fs.ReadDirFS  = (*view)(nil)
	_ fs.StatFS     = (*view)(nil)
	_ fs.ReadLinkFS = (*view)(nil)
)

func (v *view) ReadDir(name string) ([]fs.DirEntry, error)    { return fs.ReadDir(v.under, name) }
func (v *view) Stat(name string) (fs.FileInfo, error)         { return fs.Stat(v.under, name) }
func (v *view) Lstat(name string) (fs.FileInfo, error)        { return fs.Lstat(v.under, name) }
func (v *view) ReadLink(name string) (target string, _ error) { return fs.ReadLink(v.under, name) }

// ReadFile returns the file with tokens in place of what was decrypted.
func (v *view) ReadFile(name string) ([]byte, error) {
	if v.passes(name) {
		return fs.ReadFile(v.under, name)
	}
	data, err := v.content(name)
	return bytes.Clone(data), err
}

// Open is ReadFile for those who want a file.
func (v *view) Open(name string) (fs.File, error) {
	if v.passes(name) {
		return v.under.Open(name)
	}
	info, err := fs.Stat(v.under, name)
	if err != nil || info.IsDir() {
		return v.under.Open(name)
	}
	data, err := v.content(name)
	if err != nil {
		return nil, err
	}
	return &openedFile{Reader: bytes.NewReader(data), info: openedInfo{FileInfo: info, size: int64(len(data))}}, nil
}

// passes reports that a file stays as it is. One that was not foreseen and may hold a manifest is looked at.
func (v *view) passes(name string) bool {
	return v.uses[name] == 0 && (v.kept[name] || !isManifest(name))
}

// content reads and opens a file once.
func (v *view) content(name string) ([]byte, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if r, done := v.seen[name]; done {
		return r.data, r.err
	}
	data, err := v.read(name)
	if err == nil {
		u := v.uses[name]
		if u == 0 {
			u = asDocuments
		}
		data, err = v.open(name, data, u)
	}
	v.seen[name] = result{data: data, err: err}
	return data, err
}

func (v *view) read(name string) ([]byte, error) {
	f, err := v.under.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(f, maxRead+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxRead {
		return nil, fault.New(fault.StageDecrypt, fault.Invalid, fault.Ref{File: name}, "the file has more than %d bytes", maxRead).Fix("split it")
	}
	return data, nil
}

// open returns data with tokens in it when it is a SOPS file, and data itself when it is not.
func (v *view) open(name string, data []byte, u use) ([]byte, error) {
	format := detectContent(data)
	if u == asDocuments {
		format = detect(name, data)
	}
	if format == plain {
		return data, nil
	}
	return v.files.openFile(name, data, format, u, v.keys[name], v.tokens)
}

type openedFile struct {
	*bytes.Reader
	info openedInfo
}

func (f *openedFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *openedFile) Close() error               { return nil }

type openedInfo struct {
	fs.FileInfo
	size int64
}

func (i openedInfo) Size() int64 { return i.size }
