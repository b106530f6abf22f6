package configs

import "reflect"

// Common returns the settings, by path, that the masters of one cluster should
// have alike, since whichever leads goes by its own. No secret is among them.
func (c Config) Common() map[string]string {
	common, value := map[string]string{}, reflect.ValueOf(c)
	for _, key := range Keys() {
		if key.Common && key.Secret == "" {
			common[key.Path] = show(value.FieldByIndex(key.index))
		}
	}
	return common
}
