package template

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// integer reads a value as a whole number; text that is none is an error, never 0.
func integer(v any) (int64, error) {
	switch n := v.(type) {
	case int:
		return int64(n), nil
	case int64:
		return n, nil
	case bool:
		if n {
			return 1, nil
		}
		return 0, nil
	case nil:
		return 0, nil
	}
	f, err := float(v)
	if err == nil && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return int64(f), nil
	}
	if err == nil {
		if i, err := strconv.ParseInt(strings.TrimSpace(str(v)), 10, 64); err == nil {
			return i, nil
		}
		if math.Abs(f) < 1<<53 {
			return int64(f), nil
		}
	}
	return 0, refuse("an argument is not a whole number")
}

func float(v any) (float64, error) {
	switch n := v.(type) {
	case float64:
		return n, nil
	case int:
		return float64(n), nil
	case int64:
		return float64(n), nil
	case string, json.Number:
		f, err := strconv.ParseFloat(strings.TrimSpace(str(n)), 64)
		if err == nil && !math.IsNaN(f) && !math.IsInf(f, 0) {
			return f, nil
		}
	}
	return 0, refuse("an argument is not a number")
}

func atoi(_ *meter, a []any) (any, error)    { n, err := integer(a[0]); return int(n), err }
func toInt(_ *meter, a []any) (any, error)   { n, err := integer(a[0]); return int(n), err }
func toInt64(_ *meter, a []any) (any, error) { n, err := integer(a[0]); return n, err }
func toFloat(_ *meter, a []any) (any, error) { f, err := float(a[0]); return f, err }
func ceil(_ *meter, a []any) (any, error)    { f, err := float(a[0]); return math.Ceil(f), err }
func floor(_ *meter, a []any) (any, error)   { f, err := float(a[0]); return math.Floor(f), err }

func round(_ *meter, a []any) (any, error) {
	f, err := float(a[0])
	if err != nil {
		return nil, err
	}
	digits, err := integer(a[1])
	if err != nil || digits < 0 || digits > 15 {
		return nil, refuse("a number is rounded to 0 to 15 digits")
	}
	scale := math.Pow10(int(digits))
	return math.Round(f*scale) / scale, nil
}

// fold makes a function of whole numbers that takes its arguments together one by one.
func fold(a []any, op func(x, y int64) (int64, error)) (any, error) {
	var acc int64
	for i, v := range a {
		n, err := integer(v)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			acc = n
			continue
		}
		if acc, err = op(acc, n); err != nil {
			return nil, err
		}
	}
	return acc, nil
}

func add(_ *meter, a []any) (any, error) {
	return fold(a, func(x, y int64) (int64, error) { return x + y, nil })
}

func add1(_ *meter, a []any) (any, error) { n, err := integer(a[0]); return n + 1, err }

func sub(_ *meter, a []any) (any, error) {
	return fold(a, func(x, y int64) (int64, error) { return x - y, nil })
}

func mul(_ *meter, a []any) (any, error) {
	return fold(a, func(x, y int64) (int64, error) { return x * y, nil })
}

func div(_ *meter, a []any) (any, error) {
	return fold(a, func(x, y int64) (int64, error) {
		if y == 0 {
			return 0, refuse("division by zero")
		}
		return x / y, nil
	})
}

func mod(_ *meter, a []any) (any, error) {
	return fold(a, func(x, y int64) (int64, error) {
		if y == 0 {
			return 0, refuse("division by zero")
		}
		return x % y, nil
	})
}

func maximum(_ *meter, a []any) (any, error) {
	return fold(a, func(x, y int64) (int64, error) { return max(x, y), nil })
}

func minimum(_ *meter, a []any) (any, error) {
	return fold(a, func(x, y int64) (int64, error) { return min(x, y), nil })
}
