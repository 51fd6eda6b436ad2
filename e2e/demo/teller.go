package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// teller prints the story: chapters, what happens, and what was checked.
type teller struct {
	n     int
	began time.Time
	color bool
}

func newTeller() *teller {
	info, err := os.Stdout.Stat()
	return &teller{began: time.Now(), color: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

func (t *teller) paint(code, text string) string {
	if !t.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (t *teller) chapter(title string) {
	t.n++
	fmt.Printf("\n%s\n", t.paint("1;36", fmt.Sprintf("%d. %s", t.n, title)))
}

func (t *teller) say(format string, args ...any) { t.print("   ", fmt.Sprintf(format, args...)) }

// done is something that was checked.
func (t *teller) done(format string, args ...any) {
	t.print(t.paint("32", " ✔ "), fmt.Sprintf(format, args...))
}

// quote is text of a program.
func (t *teller) quote(text string) {
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		fmt.Println("     " + t.paint("2", "| ") + line)
	}
}

func (t *teller) print(mark, text string) {
	for i, line := range strings.Split(text, "\n") {
		if i > 0 {
			mark = "   "
		}
		fmt.Println(mark + line)
	}
}
