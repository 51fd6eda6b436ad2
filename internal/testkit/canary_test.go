package testkit

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"testing"
)

func TestCanaryIsFoundInEveryForm(t *testing.T) {
	c := NewCanary()
	quoted, err := json.Marshal(map[string]string{"password": c.String()})
	if err != nil {
		t.Fatal(err)
	}
	for form, text := range map[string]string{
		"raw":              "password=" + c.String() + " refused",
		"without its tail": c.String()[:30],
		"json":             string(quoted),
		"base64":           "data: " + base64.StdEncoding.EncodeToString([]byte(c.String())),
		"inside base64":    base64.StdEncoding.EncodeToString([]byte(`{"password": "` + c.String() + `"}`)),
		"base64, url":      base64.RawURLEncoding.EncodeToString([]byte("a:" + c.String())),
		"hex":              hex.EncodeToString([]byte("x" + c.String())),
		"url":              "https://git:" + url.QueryEscape(c.String()) + "@example.com",
	} {
		if len(c.FindIn(text)) == 0 {
			t.Errorf("%s: not found in %q", form, text)
		}
	}
	if found := c.FindIn("another " + NewCanary().String()); found != nil {
		t.Errorf("found %q in a text without it", found)
	}
}
