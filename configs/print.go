package configs

import (
	"bytes"
	"reflect"

	yamlv3 "gopkg.in/yaml.v3"

	"github.com/catena-run/catena/telemetry"
)

// Masked returns a copy of c that is safe to print: the passwords of URLs and
// every other secret are replaced by ***.
func (c Config) Masked() Config {
	value := reflect.ValueOf(&c).Elem()
	for _, key := range Keys() {
		field := value.FieldByIndex(key.index)
		switch key.Secret {
		case "url":
			field.SetString(telemetry.Redact(field.String()))
		case "all":
			field.SetString(telemetry.RedactSecret(field.String()))
		}
	}
	return c
}

// YAML writes c as a file that Load reads back to the same values. Mask it
// first when it is printed.
func (c Config) YAML() ([]byte, error) {
	var out bytes.Buffer
	encoder := yamlv3.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(c); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}

// Tree returns c as nested maps with the keys of the file and sizes and
// durations as text, ready for JSON.
func (c Config) Tree() map[string]any {
	root := map[string]any{}
	value := reflect.ValueOf(c)
	for _, key := range Keys() {
		var leaf any = value.FieldByIndex(key.index).Interface()
		if key.Kind == KindDuration || key.Kind == KindSize {
			leaf = show(value.FieldByIndex(key.index))
		}
		put(root, key.Path, leaf)
	}
	return root
}
