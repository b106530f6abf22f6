package store

import (
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// rowSet is the part of a statement that names the columns and values of many
// rows. A column whose rows are all alike is sent as one value, the others as
// arrays: Postgres unnests each array into a store of its own and joins them row
// by row, which for 18 columns costs as much as to insert the row.
type rowSet struct {
	names  []string
	values []string // expressions, i being the arrays side by side
	arrays []string // parameters that are unnested
	args   []any
}

// insert is the statement that inserts the rows; tail follows, as ON CONFLICT does.
func (r *rowSet) insert(table, tail string) string {
	from := ""
	if len(r.arrays) > 0 {
		from = " FROM " + r.from()
	}
	return "INSERT INTO " + table + " (" + strings.Join(r.names, ", ") + ") SELECT " + strings.Join(r.values, ", ") + from + tail
}

// update is the statement that updates the rows of the table whose column key is
// that of the first array; the other columns are set.
func (r *rowSet) update(table, key string) string {
	var set []string
	for n, name := range r.names {
		if name != key {
			set = append(set, name+" = "+r.values[n])
		}
	}
	return "UPDATE " + table + " t SET " + strings.Join(set, ", ") + " FROM " + r.from() + " WHERE t." + key + " = i.c0"
}

func (r *rowSet) from() string {
	names := make([]string, len(r.arrays))
	for n := range names {
		names[n] = "c" + strconv.Itoa(n)
	}
	return "unnest(" + strings.Join(r.arrays, ", ") + ") AS i(" + strings.Join(names, ", ") + ")"
}

// one sends the same value for all rows.
func (r *rowSet) one(name, kind string, value any) {
	r.args = append(r.args, value)
	r.column(name, kind, "$"+strconv.Itoa(len(r.args))+"::"+carrier(kind))
}

func (r *rowSet) array(name, kind string, values any) {
	r.args = append(r.args, values)
	r.arrays = append(r.arrays, "$"+strconv.Itoa(len(r.args))+"::"+carrier(kind)+"[]")
	r.column(name, kind, "i.c"+strconv.Itoa(len(r.arrays)-1))
}

func (r *rowSet) column(name, kind, value string) {
	if carrier(kind) != kind {
		value += "::" + kind
	}
	r.names, r.values = append(r.names, name), append(r.values, value)
}

// carrier is the type in which a value travels.
func carrier(kind string) string {
	if kind == "json" {
		return "text" // its characters as they are
	}
	return kind
}

// column is a column of an insertion, by name and type.
type column struct {
	name, kind string
	alike      bool
	first      any
	all        any
}

// of describes a column of values that are never NULL.
func of[T comparable](name, kind string, values []T) column {
	c := column{name: name, kind: kind, alike: true, all: pgtype.FlatArray[T](values)}
	for i := range values {
		if i == 0 {
			c.first = values[0]
		}
		if values[i] != values[0] {
			c.alike = false
			break
		}
	}
	return c
}

// ofNull describes a column of values that may be NULL.
func ofNull[T comparable](name, kind string, values []*T) column {
	c := column{name: name, kind: kind, alike: true, all: pgtype.FlatArray[*T](values)}
	for i, v := range values {
		if i == 0 {
			c.first = v
		}
		if first := values[0]; v != first && (v == nil || first == nil || *v != *first) {
			c.alike = false
			break
		}
	}
	return c
}

// ofTime is ofNull for times, which == does not compare.
func ofTime(name string, values []*time.Time) column {
	c := column{name: name, kind: "timestamptz", alike: true, all: pgtype.FlatArray[*time.Time](values)}
	for i, v := range values {
		if i == 0 {
			c.first = v
		}
		if first := values[0]; v != first && (v == nil || first == nil || !v.Equal(*first)) {
			c.alike = false
			break
		}
	}
	return c
}

// together adds columns that change together: all of them as one value or all
// as arrays, so that the statements that there are stay few.
func (r *rowSet) together(columns ...column) {
	alike := true
	for _, c := range columns {
		alike = alike && c.alike
	}
	for _, c := range columns {
		if alike {
			r.one(c.name, c.kind, c.first)
		} else {
			r.array(c.name, c.kind, c.all)
		}
	}
}

// nullID is an id that may be NULL, in the form that travels in binary: a
// *uuid.UUID in an array goes by its text, which costs ten times as much.
func nullID(id *uuid.UUID) pgtype.UUID {
	if id == nil {
		return pgtype.UUID{}
	}
	return pgtype.UUID{Bytes: *id, Valid: true}
}
