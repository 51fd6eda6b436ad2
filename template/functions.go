package template

// functions returns the allow-list: everything that a template may call besides the comparisons, index, slice, len, and,
// or and not of text/template. Names, argument order and results are those of the sprig library, which the templates of
// SealedSecrets and ExternalSecrets are written for, with these differences: what would yield "" for text that it
// cannot read is an error, keys and values come sorted, and nothing changes a dictionary in place.
// Left out for good: environment, network, clock, random, key generation, and anything whose cost its arguments hide.
func functions() map[string]function {
	return map[string]function{
		// text
		"abbrev": {2, 2, abbrev}, "camelcase": {1, 1, words(camel)}, "cat": {0, -1, cat}, "contains": {2, 2, contains},
		"hasPrefix": {2, 2, hasPrefix}, "hasSuffix": {2, 2, hasSuffix}, "indent": {2, 2, indent}, "initials": {1, 1, words(initials)},
		"kebabcase": {1, 1, words(kebab)}, "lower": {1, 1, lower}, "nindent": {2, 2, nindent}, "nospace": {1, 1, nospace},
		"plural": {3, 3, plural}, "quote": {0, -1, quote}, "repeat": {2, 2, repeat}, "replace": {3, 3, replace},
		"snakecase": {1, 1, words(snake)}, "squote": {0, -1, squote}, "substr": {3, 3, substr}, "title": {1, 1, title},
		"toString": {1, 1, toString}, "trim": {1, 1, trim}, "trimAll": {2, 2, trimAll}, "trimPrefix": {2, 2, trimPrefix},
		"trimSuffix": {2, 2, trimSuffix}, "trunc": {2, 2, trunc}, "untitle": {1, 1, untitle}, "upper": {1, 1, upper},
		// text/template's own, under the budget
		"html": {0, -1, html}, "js": {0, -1, js}, "print": {0, -1, printPlain}, "printf": {1, -1, printFormat},
		"println": {0, -1, printLine}, "urlquery": {0, -1, urlquery},
		// regular expressions
		"mustRegexFind": {2, 2, regexFind}, "mustRegexMatch": {2, 2, regexMatch}, "mustRegexReplaceAll": {3, 3, regexReplaceAll},
		"regexFind": {2, 2, regexFind}, "regexFindAll": {3, 3, regexFindAll}, "regexMatch": {2, 2, regexMatch},
		"regexQuoteMeta": {1, 1, regexQuoteMeta}, "regexReplaceAll": {3, 3, regexReplaceAll},
		"regexReplaceAllLiteral": {3, 3, regexReplaceAllLiteral}, "regexSplit": {3, 3, regexSplit},
		// encodings and digests
		"b32dec": {1, 1, b32dec}, "b32enc": {1, 1, b32enc}, "b64dec": {1, 1, b64dec}, "b64enc": {1, 1, b64enc},
		"hexdec": {1, 1, hexdec}, "hexenc": {1, 1, hexenc}, "sha1sum": {1, 1, sha1sum}, "sha256sum": {1, 1, sha256sum},
		"sha512sum": {1, 1, sha512sum},
		"fromJson":  {1, 1, fromJSON}, "fromYaml": {1, 1, fromYAML}, "mustFromJson": {1, 1, fromJSON}, "mustToJson": {1, 1, toJSON},
		"mustToPrettyJson": {1, 1, toPrettyJSON}, "mustToRawJson": {1, 1, toRawJSON}, "toJson": {1, 1, toJSON},
		"toPrettyJson": {1, 1, toPrettyJSON}, "toRawJson": {1, 1, toRawJSON}, "toYaml": {1, 1, toYAML},
		// choice
		"all": {0, -1, all}, "any": {0, -1, anyOf}, "coalesce": {0, -1, coalesce}, "default": {1, 2, orDefault}, "empty": {1, 1, isEmpty},
		"fail": {0, 1, fail}, "kindIs": {2, 2, kindIs}, "kindOf": {1, 1, kindOf}, "ternary": {3, 3, ternary},
		// numbers
		"add": {0, -1, add}, "add1": {1, 1, add1}, "atoi": {1, 1, atoi}, "ceil": {1, 1, ceil}, "div": {2, 2, div}, "float64": {1, 1, toFloat},
		"floor": {1, 1, floor}, "int": {1, 1, toInt}, "int64": {1, 1, toInt64}, "max": {1, -1, maximum}, "min": {1, -1, minimum},
		"mod": {2, 2, mod}, "mul": {1, -1, mul}, "round": {2, 2, round}, "sub": {2, 2, sub},
		// lists
		"append": {2, 2, appendTo}, "compact": {1, 1, compact}, "concat": {0, -1, concat}, "first": {1, 1, first}, "has": {2, 2, has},
		"initial": {1, 1, initial}, "join": {2, 2, join}, "last": {1, 1, last}, "list": {0, -1, makeList}, "prepend": {2, 2, prepend},
		"rest": {1, 1, rest}, "reverse": {1, 1, reverse}, "sortAlpha": {1, 1, sortAlpha}, "split": {2, 2, split},
		"splitList": {2, 2, splitList}, "splitn": {3, 3, splitN}, "toStrings": {1, 1, toStrings}, "tuple": {0, -1, makeList},
		"uniq": {1, 1, uniq}, "without": {1, -1, without},
		// dictionaries
		"dict": {0, -1, dict}, "dig": {3, -1, dig}, "get": {2, 2, get}, "hasKey": {2, 2, hasKey}, "keys": {1, -1, keysOf},
		"merge": {1, -1, merge}, "omit": {1, -1, omit}, "pick": {1, -1, pick}, "pluck": {1, -1, pluck}, "values": {1, 1, valuesOf},
	}
}
