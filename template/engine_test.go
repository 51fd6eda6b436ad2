package template

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

const canary = "cAnArY-hunter2-\"<x>&é"

func values(pairs ...string) map[string]plaintext.Value {
	out := map[string]plaintext.Value{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = plaintext.FromString(pairs[i+1])
	}
	return out
}

func TestExecute(t *testing.T) {
	in := values("user", "app", "pw", "p@ss w", "host", "db.example", "json", `{"n":12345678901234567890,"i":5432,"f":1.5,"s":"<a>","l":["x","y"],"m":{"k":"v"}}`,
		"lines", "a\nb", "b64", "aGk=", "bad-key", "z", "empty", "")
	for text, want := range map[string]string{
		`postgres://{{ .user }}:{{ .pw | urlquery }}@{{ .host }}/app`:                                 "postgres://app:p%40ss+w@db.example/app",
		`{{ index . "bad-key" }}`:                                                                     "z",
		`{{ .b64 | b64dec }}{{ "hi" | b64enc }}`:                                                      "hiaGk=",
		`{{ (fromJson .json).n }} {{ (fromJson .json).i }} {{ (fromJson .json).f }}`:                  "12345678901234567890 5432 1.5",
		`{{ (fromJson .json).s | toJson }}{{ (fromJson .json).s | toRawJson }}`:                       `"\u003ca\u003e""<a>"`,
		`{{ range (fromJson .json).l }}[{{ . }}]{{ end }}`:                                            "[x][y]",
		`{{ toYaml (fromJson .json).m }}`:                                                             "k: v",
		`{{ dig "m" "k" "none" (fromJson .json) }}{{ dig "m" "q" "none" (fromJson .json) }}`:          "vnone",
		"x:\n{{ .lines | indent 2 }}{{ .lines | nindent 1 }}":                                         "x:\n  a\n  b\n a\n b",
		`{{ .empty | default "d" }}{{ coalesce .empty .user }}{{ ternary "y" "n" (eq .user "app") }}`: "dappy",
		`{{ .user | upper | trunc 2 }}{{ trimSuffix "le" .host }}{{ replace "." "-" .host }}`:         "APdb.exampdb-example",
		`{{ splitList "." .host | join "/" }}{{ (split "." .host)._1 }}`:                              "db/exampleexample",
		`{{ keys . | join "," }}`:                                                                     "b64,bad-key,empty,host,json,lines,pw,user",
		`{{ printf "%s-%05d" .user 42 }}{{ quote .user }}{{ squote .user }}`:                          `app-00042"app"'app'`,
		`{{ regexReplaceAll "(a)(p+)" .user "${2}${1}" }}{{ regexFind "[a-z]+$" .host }}`:             "ppaexample",
		`{{ add 1 "2" 3 }} {{ div 7 2 }} {{ max 1 9 3 }} {{ atoi "12" }}`:                             "6 3 9 12",
		`{{ "some-dbName" | camelcase }} {{ "someName" | snakecase }} {{ "a b" | title }}`:            "SomeDbName some_name A B",
		`{{ sha256sum "a" | trunc 8 }} {{ "6869" | hexdec }}`:                                         "ca978112 hi",
		`{{ define "x" }}<{{ . }}>{{ end }}{{ template "x" .user }}`:                                  "<app>",
		`{{ range $i := 3 }}{{ $i }}{{ end }}`:                                                        "012",
		`{{ toJson (merge (dict "a" 1) (dict "a" 2 "b" 3)) }}`:                                        `{"a":1,"b":3}`,
	} {
		out, err := Engine{}.Execute(t.Context(), "k", text, in)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := string(out.Reveal()); got != want {
			t.Errorf("%s\n got %q\nwant %q", text, got, want)
		}
	}
}

// Every way that is known to make text/template or a function quote a value in its error.
func TestT41_ErrorsCarryNoValue(t *testing.T) {
	in := values("pw", canary, "num", "12x"+canary)
	texts := []string{
		`{{ fail .pw }}`, `{{ atoi .pw }}`, `{{ int .num }}`, `{{ regexFind (printf "(%s" .pw) "x" }}`, `{{ mustRegexMatch (printf "[%s" .pw) "x" }}`,
		`{{ fromJson .pw }}`, `{{ mustFromJson .pw }}`, `{{ fromYaml .pw }}`, `{{ fromYaml (printf "%s: [" .pw) }}`, `{{ b64dec .pw }}`, `{{ b32dec .pw }}`, `{{ hexdec .pw }}`,
		`{{ .pw.x }}`, `{{ index .pw 100000 }}`, `{{ index . .pw | printf "%d" | fail }}`, `{{ slice .pw 99999 }}`, `{{ call .pw }}`, `{{ template .pw }}`,
		`{{ .nosuch }}`, `{{ mustToDate "2006" .pw }}`, `{{ urlParse .pw }}`, `{{ len 3 | fail }}`, `{{ lt .pw 3 }}`, `{{ eq .pw 3 }}`, `{{ range .pw }}{{ end }}`,
		`{{ range $i := .pw }}{{ end }}`, `{{ dict .pw | fail }}`, `{{ trunc .pw "x" }}`, `{{ substr 5 1 .pw }}`, `{{ repeat 99999999 .pw }}`, `{{ indent .pw "x" }}`,
		`{{ (dict .pw 1).nope.deeper }}`, `{{ merge .pw }}`, `{{ printf (printf "%%9999%s" .pw) 1 }}`, `{{ fail (printf "map has no entry for key %q" .pw) }}`,
		`{{ fail (printf "error calling %s:" .pw) }}`, `{{ {{ .pw }}`, `{{ "` + "unclosed }}", `{{ join 1 2 3 4 }}`, `{{ div 1 .pw }}`, `{{ first .pw }}`, `{{ toJson }}`,
		`{{ get .pw "x" }}`, `{{ regexFindAll "x" "x" .pw }}`, `{{ html .pw | atoi }}`, `{{ js .pw | atoi }}`, `{{ urlquery .pw | atoi }}`,
	}
	for _, text := range texts {
		_, err := Engine{}.Execute(t.Context(), "password", text, in)
		if err == nil {
			t.Errorf("%s: no error", text)
			continue
		}
		assertNoCanary(t, text, err.Error())
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), `template "password"`) {
			t.Errorf("%s: %v: want an Invalid error that names the template", text, err)
		}
	}
}

func assertNoCanary(t *testing.T, what, text string) {
	t.Helper()
	for _, part := range []string{canary, "cAnArY", "hunter2", "12x"} {
		for _, form := range plaintext.Encodings([]byte(part)) {
			if strings.Contains(text, form) {
				t.Errorf("%s: the error shows a value as %q: %s", what, form, text)
			}
		}
	}
}

func TestErrorsNamePlaceAndFunction(t *testing.T) {
	for text, want := range map[string]string{
		"a\n{{ fail .pw }}":  `template "k", line 2, column 4: function fail: the template itself refuses the values`,
		"{{ .nosuch }}":      "there is no value nosuch",
		"{{ env \"HOME\" }}": "the function env is not served",
		"{{ if }}":           `template "k", line 1: the template cannot be read`,
		"{{ index .pw 99 }}": "the function index failed",
		"{{ atoi .pw }}":     "function atoi: an argument is not a whole number",
	} {
		_, err := Engine{}.Execute(t.Context(), "k", text, values("pw", canary))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// The list is kept in a file so that a function which is added shows in review.
func TestAllowListIsGolden(t *testing.T) {
	got := strings.Join(slices.Sorted(maps.Keys(functions())), "\n") + "\n"
	want, err := os.ReadFile("testdata/functions.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the allow-list differs from testdata/functions.txt; it is now:\n%s", got)
	}
	for _, banned := range []string{"env", "expandenv", "getHostByName", "now", "date", "randAlphaNum", "randBytes", "uuidv4", "genPrivateKey", "genCA", "derivePassword", "bcrypt", "htpasswd", "until", "untilStep", "seq", "set", "getSecretKey", "lookup", "tick"} {
		_, err := Engine{}.Execute(t.Context(), "k", "{{ "+banned+" }}", nil)
		if err == nil || !strings.Contains(err.Error(), "the function "+banned+" is not served") {
			t.Errorf("%s: %v: want it to be unknown", banned, err)
		}
	}
}

func TestHostileTemplatesEndWithinTheBudget(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	deep := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	for name, text := range map[string]string{
		"huge range":         `{{ range 1000000000 }}{{ end }}`,
		"nested ranges":      `{{ range 100000 }}{{ range 100000 }}{{ end }}{{ end }}`,
		"repeat":             `{{ repeat 200000000 "x" }}`,
		"repeat of repeat":   `{{ repeat 1000 (repeat 1000 (repeat 1000 "x")) | len }}`,
		"doubling":           `{{ $x := .big }}` + strings.Repeat(`{{ $x = print $x $x }}`, 40),
		"doubling a list":    `{{ $x := list 1 }}` + strings.Repeat(`{{ $x = list $x $x }}`, 60) + `{{ $x }}`,
		"deep nesting":       `{{ $x := list }}{{ range 5000 }}{{ $x = list $x }}{{ end }}{{ $x }}`,
		"deep json":          `{{ fromJson .deep }}`,
		"wide printf":        `{{ printf "%1000000000d" 1 }}`,
		"indexed printf":     `{{ printf "` + strings.Repeat("%[1]s", 5000) + `" .big }}`,
		"star printf":        `{{ printf "%*d" 100000000 1 }}`,
		"replace empty":      `{{ replace "" .big .big }}`,
		"regex expansion":    `{{ regexReplaceAll "." .big "` + strings.Repeat("$0", 2000) + `" }}`,
		"costly regex":       `{{ regexMatch "(x{1,30}){1,30}y" .big }}`,
		"huge regex":         `{{ regexMatch "((x{100}){100}){100}" .big }}`,
		"recursion":          `{{ define "a" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`,
		"mutual recursion":   `{{ define "a" }}{{ template "b" . }}{{ end }}{{ define "b" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`,
		"exponential":        exponential(40),
		"indent":             `{{ indent 1000000000 "x" }}`,
		"output":             `{{ range 100 }}{{ $.big }}{{ end }}`,
		"yaml aliases":       `{{ fromYaml .bomb }}`,
		"split into letters": `{{ range 40 }}{{ $x := splitList "" $.big }}{{ end }}`,
		"long source":        strings.Repeat("x", 200<<10),
		"spaces":             `{{ range 40000 }}{{ range 40000 }}` + "x" + `{{ end }}{{ end }}`,
	} {
		_, err := Engine{}.Execute(t.Context(), "k", text, values("big", big, "deep", deep, "bomb", bomb()))
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v: want it refused as Invalid", name, err)
		}
	}
}

func exponential(n int) string {
	var b strings.Builder
	b.WriteString(`{{ define "t0" }}{{ end }}`)
	for i := 1; i < n; i++ {
		here, below := "t"+strings.Repeat("i", i), "t"+strings.Repeat("i", i-1)
		if i == 1 {
			below = "t0"
		}
		b.WriteString(`{{ define "` + here + `" }}{{ template "` + below + `" . }}{{ template "` + below + `" . }}{{ end }}`)
	}
	b.WriteString(`{{ template "t` + strings.Repeat("i", n-1) + `" . }}`)
	return b.String()
}

func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 9; i++ {
		d := string(rune('0' + i))
		p := string(rune('0' + i - 1))
		b.WriteString("a" + d + ": &a" + d + " [" + strings.TrimSuffix(strings.Repeat("*a"+p+",", 9), ",") + "]\n")
	}
	return b.String()
}

func TestAnEndedContextIsTransient(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Engine{}.Execute(ctx, "k", "{{ upper .a }}", values("a", canary))
	if fault.KindOf(err) != fault.Transient {
		t.Errorf("got %v, want Transient", err)
	}
}

func TestSameInputSameBytes(t *testing.T) {
	in := values("a", "1", "b", "2", "c", "3")
	text := `{{ range $k, $v := . }}{{ $k }}{{ $v }}{{ end }}{{ toJson . }}{{ values . }}{{ keys . }}{{ toYaml . }}`
	want, err := Engine{}.Execute(t.Context(), "k", text, in)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if got, _ := (Engine{}).Execute(t.Context(), "k", text, in); !got.Equal(want) {
			t.Fatal("two executions differ")
		}
	}
}

func FuzzExecute(f *testing.F) {
	for _, seed := range []string{`{{ .pw }}`, `{{ fail .pw }}`, `{{ range 9 }}{{ . }}{{ end }}`, `{{ define "a" }}{{ template "a" }}{{ end }}`, `{{ printf "%s" .pw | atoi }}`, `{{ $x := list .pw }}{{ index $x 3 }}`} {
		f.Add(seed)
	}
	in := values("pw", canary)
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "cAnArY") {
			return
		}
		_, err := Engine{}.Execute(context.Background(), "k", text, in)
		if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "cAnArY")) {
			t.Errorf("the error shows the value: %v", err)
		}
	})
}
