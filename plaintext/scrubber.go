package plaintext

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"sync"
)

// minScrub is the shortest value, in bytes, that a Scrubber replaces. Shorter ones occur in honest text too often, and
// replacing them would tell that they are the value.
const minScrub = 4

// Scrubber removes known values from text that leaves the process: errors of libraries, API servers and providers.
// It knows each value raw, trimmed, line by line, quoted, base64 (three alignments), hex and URL-escaped.
// It is the last net; the first is to return fixed error texts.
type Scrubber struct {
	mu       sync.Mutex
	needles  map[string]struct{}
	replacer *strings.Replacer
}

// NewScrubber returns a Scrubber that knows the given values.
func NewScrubber(values ...Value) *Scrubber {
	s := &Scrubber{needles: map[string]struct{}{}}
	s.Add(values...)
	return s
}

// Add makes further values known.
func (s *Scrubber) Add(values ...Value) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range values {
		raw := v.Reveal()
		s.learn(raw)
		if trimmed := bytes.TrimSpace(raw); len(trimmed) != len(raw) {
			s.learn(trimmed)
		}
		if lines := bytes.Split(raw, []byte("\n")); len(lines) > 1 {
			for _, line := range lines {
				// A PEM frame or a bare keyword is no secret, and common.
				if len(line) >= 8 && !bytes.HasPrefix(line, []byte("-----")) {
					s.learn(line)
				}
			}
		}
	}
	s.replacer = nil
}

func (s *Scrubber) learn(raw []byte) {
	if len(raw) < minScrub {
		return
	}
	for _, form := range Encodings(raw) {
		if len(form) >= minScrub {
			s.needles[form] = struct{}{}
		}
	}
}

// Encodings returns the forms in which raw may stand in text: itself, quoted, base64, hex and URL-escaped.
// A base64 form without its edges matches where raw is in the middle of a longer encoded text.
func Encodings(raw []byte) []string {
	text := string(raw)
	out := []string{text, hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)), url.QueryEscape(text), url.PathEscape(text)}
	if q := strconv.Quote(text); len(q) > 2 {
		out = append(out, q[1:len(q)-1])
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding} {
		out = append(out, enc.EncodeToString(raw))
		for shift := range 3 {
			padded := enc.WithPadding(base64.NoPadding).EncodeToString(append(make([]byte, shift), raw...))
			// The characters that also depend on neighbours are cut: those of the shift, and the last one.
			from := []int{0, 2, 3}[shift]
			if len(padded)-1-from >= 6 {
				out = append(out, padded[from:len(padded)-1])
			}
		}
	}
	return out
}

// Scrub returns text with every known value replaced by Mask.
func (s *Scrubber) Scrub(text string) string {
	if s == nil || text == "" {
		return text
	}
	s.mu.Lock()
	if s.replacer == nil {
		s.replacer = s.build()
	}
	r := s.replacer
	s.mu.Unlock()
	return r.Replace(text)
}

func (s *Scrubber) build() *strings.Replacer {
	list := make([]string, 0, len(s.needles))
	for n := range s.needles {
		list = append(list, n)
	}
	// Replacer prefers earlier pairs: longest first leaves no tail of a value that contains another.
	sort.Slice(list, func(i, j int) bool {
		if len(list[i]) != len(list[j]) {
			return len(list[i]) > len(list[j])
		}
		return list[i] < list[j]
	})
	pairs := make([]string, 0, 2*len(list))
	for _, n := range list {
		pairs = append(pairs, n, Mask)
	}
	return strings.NewReplacer(pairs...)
}
