package source

import (
	"cmp"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"sealock.dev/sealock/fault"
)

// point makes latest.tar.gz the artifact of the name, at once.
func (s *Storage) point(folder, name string) error {
	part := s.partName(folder)
	err := s.root.Symlink(name, part)
	if err == nil {
		err = s.root.Rename(part, path.Join(folder, latestName))
	}
	if err != nil {
		return fail(fault.Transient, ReasonSymlink, "latest.tar.gz cannot be written: "+localCause(err))
	}
	return nil
}

// Collect removes the artifacts of the owner that were followed by another one long enough ago, and says how many.
func (s *Storage) Collect(o Owner, current Artifact) (int, error) {
	if !o.valid() {
		return 0, nil
	}
	n, err := s.collect(path.Join(artifactFolder, o.Namespace, o.Name), path.Base(current.Path), true)
	if n > 0 {
		s.count()
	}
	return n, err
}

// collect keeps the current artifact and the newest others, and those not too long when old ones are to go.
func (s *Storage) collect(folder, current string, old bool) (int, error) {
	infos, err := s.artifacts(folder)
	if err != nil {
		return 0, err
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int {
		if (a.Name() == current) != (b.Name() == current) {
			if a.Name() == current {
				return -1
			}
			return 1
		}
		return cmp.Or(b.ModTime().Compare(a.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	removed := 0
	for i, info := range infos {
		if i == 0 && info.Name() == current || i < s.records && !(old && i > 0 && s.now().Sub(infos[i-1].ModTime()) > s.ttl) {
			continue
		}
		if err := s.remove(path.Join(folder, info.Name())); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// artifacts lists the artifacts in a folder.
func (s *Storage) artifacts(folder string) ([]fs.FileInfo, error) {
	d, err := s.root.Open(folder)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, cacheFailure("the artifact folder cannot be read", err)
	}
	defer func() { _ = d.Close() }()
	list, err := d.ReadDir(-1)
	if err != nil {
		return nil, cacheFailure("the artifact folder cannot be read", err)
	}
	var infos []fs.FileInfo
	for _, e := range list {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && artifactName.MatchString(e.Name()) {
			infos = append(infos, info)
		}
	}
	return infos, nil
}

func (s *Storage) remove(name string) error {
	s.mu.Lock()
	delete(s.verified, name)
	s.mu.Unlock()
	if err := s.root.Remove(name); err != nil && !os.IsNotExist(err) {
		return cacheFailure("an artifact cannot be removed", err)
	}
	return nil
}

// Owners returns who has artifacts here.
func (s *Storage) Owners() (out []Owner) {
	found, _ := fs.Glob(s.root.FS(), path.Join(artifactFolder, "*", "*"))
	for _, name := range found {
		if o := (Owner{path.Base(path.Dir(name)), path.Base(name)}); o.valid() {
			out = append(out, o)
		}
	}
	return out
}

// KeepOnly removes all artifacts of the owner but the one at the path. It is for what another process may have withdrawn.
func (s *Storage) KeepOnly(o Owner, name string) error {
	folder := path.Join(artifactFolder, o.Namespace, o.Name)
	infos, err := s.artifacts(folder)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if commit := strings.TrimSuffix(info.Name(), artifactSuffix); path.Join(folder, info.Name()) != name {
			if err := s.Withdraw(o, commit); err != nil {
				return err
			}
		}
	}
	return nil
}

// Withdraw removes the artifact of a commit.
func (s *Storage) Withdraw(o Owner, commit string) error {
	name := ArtifactPath(o, commit)
	if _, _, ok := parseArtifactPath("/" + name); !ok {
		return nil
	}
	latest := path.Join(path.Dir(name), latestName)
	if to, err := s.root.Readlink(latest); err == nil && to == path.Base(name) {
		if err := s.root.Remove(latest); err != nil {
			return cacheFailure("an artifact cannot be removed", err)
		}
	}
	defer s.count()
	return s.remove(name)
}
