package configs

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/catena-run/catena/task"
)

// show writes a value as the environment would.
func show(value reflect.Value) string {
	switch v := value.Interface().(type) {
	case []string:
		return strings.Join(v, ",")
	case task.Duration:
		return task.DurationText(time.Duration(v))
	default:
		return fmt.Sprint(v)
	}
}

// assign puts raw, as a layer gave it, into field. A layer gives texts (the
// environment, flags) or what YAML made of the file.
func assign(field reflect.Value, kind Kind, raw any) error {
	switch kind {
	case KindText:
		return assignText(field, raw)
	case KindList:
		return assignList(field, raw)
	case KindNumber:
		return assignNumber(field, raw)
	case KindBool:
		return assignBool(field, raw)
	case KindDuration:
		return assignDuration(field, raw)
	case KindSize:
		return assignSize(field, raw)
	case KindFraction:
		return assignFraction(field, raw)
	}
	return nil
}

func assignText(field reflect.Value, raw any) error {
	switch v := raw.(type) {
	case string:
		field.SetString(v)
		return nil
	case map[string]any, map[any]any, []any:
		return mismatch(raw, "text", "write one text behind the key, with nothing below it")
	}
	return mismatch(raw, "text", `put it in quotes, such as "%v"`, raw)
}

func assignList(field reflect.Value, raw any) error {
	items := []string{}
	switch v := raw.(type) {
	case string:
		for _, item := range strings.Split(v, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
	case []any:
		for _, element := range v {
			item, ok := element.(string)
			if !ok {
				return mismatch(element, "text", `put it in quotes, such as "%v"`, element)
			}
			items = append(items, item)
		}
	default:
		return mismatch(raw, "a list", "write [a, b] in the file or a,b in a variable")
	}
	field.Set(reflect.ValueOf(items))
	return nil
}

func assignNumber(field reflect.Value, raw any) error {
	switch v := raw.(type) {
	case int:
		field.SetInt(int64(v))
		return nil
	case string:
		if number, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			field.SetInt(number)
			return nil
		}
	}
	return mismatch(raw, "a whole number", "write digits, such as 8")
}

func assignBool(field reflect.Value, raw any) error {
	switch v := raw.(type) {
	case bool:
		field.SetBool(v)
		return nil
	case string:
		if v == "true" || v == "false" {
			field.SetBool(v == "true")
			return nil
		}
	}
	return mismatch(raw, "true or false", "write true or false")
}

func assignDuration(field reflect.Value, raw any) error {
	if number, ok := raw.(int); ok && number == 0 {
		raw = "0s"
	}
	text, ok := raw.(string)
	if !ok {
		return mismatch(raw, "a duration", `write a number and a unit, such as "30s"`)
	}
	var d task.Duration
	if err := d.UnmarshalText([]byte(text)); err != nil {
		return err
	}
	field.SetInt(int64(d))
	return nil
}

func assignSize(field reflect.Value, raw any) error {
	text, ok := raw.(string)
	if number, isInt := raw.(int); isInt {
		text, ok = strconv.Itoa(number), true
	}
	if !ok {
		return mismatch(raw, "a size", "write a number and a unit, such as 512MiB")
	}
	size, err := ParseSize(text)
	if err != nil {
		return err
	}
	field.SetInt(int64(size))
	return nil
}

func assignFraction(field reflect.Value, raw any) error {
	var fraction float64
	switch v := raw.(type) {
	case int:
		fraction = float64(v)
	case float64:
		fraction = v
	case string:
		var err error
		if fraction, err = strconv.ParseFloat(strings.TrimSpace(v), 64); err != nil {
			return mismatch(raw, "a number", "write digits, such as 0.1")
		}
	default:
		return mismatch(raw, "a number", "write digits, such as 0.1")
	}
	if !(fraction >= 0 && fraction <= 1) { // NaN is not either
		return mismatch(raw, "from 0 to 1", "use 0.1 for every tenth, 1 for all")
	}
	field.SetFloat(fraction)
	return nil
}

func mismatch(raw any, want, remedy string, args ...any) error {
	return task.Errorf(task.CodeInvalid, "%s is not %s", describeRaw(raw), want).Fix(remedy, args...)
}

func describeRaw(raw any) string {
	switch v := raw.(type) {
	case map[string]any, map[any]any:
		return "a section"
	case []any:
		return "a list"
	case string:
		return strconv.Quote(v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1e15 {
			return strconv.FormatFloat(v, 'f', 1, 64)
		}
	}
	return fmt.Sprint(raw)
}

// bound reads a min or max tag in the unit of kind; tags are checked by a test.
func bound(kind Kind, text string) int64 {
	value := reflect.New(reflect.TypeFor[int64]()).Elem()
	if assign(value, kind, text) != nil {
		return 0
	}
	return value.Int()
}
