package configs

import (
	"reflect"

	"github.com/catena-run/catena/task"
)

// Common returns the settings, by path, that the masters of one cluster should
// have alike, since whichever leads goes by its own. No secret is among them.
func (c Config) Common() map[string]string {
	common, value := map[string]string{}, reflect.ValueOf(c)
	for _, key := range Keys() {
		if key.Common && key.Secret == "" {
			common[key.Path] = written(value.FieldByIndex(key.index))
		}
	}
	return common
}

// written is what show writes, but for durations: masters of other versions compare
// these texts with theirs.
func written(value reflect.Value) string {
	if d, ok := value.Interface().(task.Duration); ok {
		return d.String()
	}
	return show(value)
}
