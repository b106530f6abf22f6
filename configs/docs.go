package configs

import (
	"fmt"
	"slices"
	"strings"
)

const docsHead = `# Configuration

<!-- Generated from the package configs. To renew it: go test ./configs -run TestDocs -update -->

Every process reads the same schema. Later sources win over earlier ones:

1. the defaults below
2. a YAML file: ` + "`--config FILE` or `CATENA_CONFIG`" + `
3. environment variables: ` + "`CATENA_` and the path in upper case, with `_` for `.`" + `
4. flags: ` + "`--set path=value`, as often as needed" + `

A key or ` + "`CATENA_`" + ` variable that is not listed here is an error that names the nearest one. Variables that container
platforms add for a service named catena (such as ` + "`CATENA_SERVICE_HOST`" + `) are left alone. In a variable or flag a list is
written with commas. A duration is a number and a unit (` + "`250ms`, `30s`, `10m`, `72h`, `30d`" + `), a size likewise: ` + "`KiB MiB GiB TiB`" + `
are powers of 1024, ` + "`KB MB GB TB`" + ` of 1000.

    catena config print       # the effective configuration, secrets masked
    catena config validate    # every problem, with its place
    catena config schema      # a JSON Schema for editors

Sample files: [master.yaml](../configs/master.yaml), [worker.yaml](../configs/worker.yaml), [cluster.yaml](../configs/cluster.yaml).
`

//go:generate go test -run TestDocs -update .

// Markdown returns docs/configuration.md.
func Markdown() string {
	keys, sections := describe()
	var b strings.Builder
	b.WriteString(docsHead)
	for _, s := range sections {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", s.path, s.doc)
		own := slices.DeleteFunc(slices.Clone(keys), func(k Key) bool { return parent(k.Path) != s.path })
		if len(own) > 0 {
			b.WriteString("\n| key | default | meaning |\n|---|---|---|\n")
		}
		for _, key := range own {
			fmt.Fprintf(&b, "| `%s`<br>`%s` | %s | %s |\n", key.Path, key.Env, code(key.Default), key.remark())
		}
	}
	b.WriteString("\n## Former names\n\nThese are accepted wherever keys are, with one notice that names today's. A setting under both names is an error.\n\n| former name | today's |\n|---|---|\n")
	for _, f := range formers {
		remark := ""
		if f.doc != "" {
			remark = " (in " + f.doc + ")"
		}
		fmt.Fprintf(&b, "| `%s`%s | `%s` |\n", f.old, remark, f.path)
	}
	return b.String()
}

func (k Key) remark() string {
	var extra []string
	if k.Kind != KindText {
		extra = append(extra, string(k.Kind))
	}
	if len(k.Enum) > 0 {
		extra = append(extra, "one of "+strings.Join(k.Enum, ", "))
	}
	switch {
	case k.Min != "" && k.Max != "":
		extra = append(extra, k.Min+" to "+k.Max)
	case k.Min != "":
		extra = append(extra, "at least "+k.Min)
	}
	if k.Secret != "" {
		extra = append(extra, "masked when printed")
	}
	if len(extra) == 0 {
		return k.Doc
	}
	return k.Doc + " (" + strings.Join(extra, "; ") + ")"
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}
