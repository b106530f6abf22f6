package configs

import (
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/catena-run/catena/task"
)

// Size is a number of bytes that reads and writes as text such as "512MiB".
type Size int64

// Units of a Size.
const (
	KiB Size = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
)

// unitsOfSize, longest suffix first among those that end alike.
var unitsOfSize = [...]struct {
	suffix string
	bytes  int64
}{
	{"TiB", int64(TiB)}, {"GiB", int64(GiB)}, {"MiB", int64(MiB)}, {"KiB", int64(KiB)},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}, {"", 1},
}

// ParseSize reads a number and a unit: B, KiB, MiB, GiB, TiB (powers of 1024)
// or KB, MB, GB, TB (powers of 1000). A number alone counts bytes.
func ParseSize(text string) (Size, error) {
	trimmed := strings.TrimSpace(text)
	for _, unit := range unitsOfSize {
		number, ok := strings.CutSuffix(trimmed, unit.suffix)
		if !ok {
			continue
		}
		return sizeOf(text, strings.TrimSpace(number), unit.bytes)
	}
	return 0, badSize(text)
}

func sizeOf(text, number string, unit int64) (Size, error) {
	if number == "" || len(number) > 30 || strings.Trim(number, "0123456789.") != "" {
		return 0, badSize(text)
	}
	exact, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, badSize(text)
	}
	exact.Mul(exact, new(big.Rat).SetInt64(unit))
	if exact.Cmp(new(big.Rat).SetInt64(math.MaxInt64)) > 0 {
		return 0, task.Errorf(task.CodeInvalid, "size %q is too large", text)
	}
	return Size(new(big.Int).Quo(exact.Num(), exact.Denom()).Int64()), nil
}

func badSize(text string) error {
	return task.Errorf(task.CodeInvalid, "%q is not a size", text).Fix("write a number and a unit, such as 512MiB, 64KiB or 1GB")
}

// String writes s in the largest unit that holds it without a fraction.
func (s Size) String() string {
	for _, unit := range unitsOfSize[:4] {
		if s != 0 && int64(s)%unit.bytes == 0 {
			return strconv.FormatInt(int64(s)/unit.bytes, 10) + unit.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText writes s as String does.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads what ParseSize reads.
func (s *Size) UnmarshalText(text []byte) error {
	size, err := ParseSize(string(text))
	if err != nil {
		return err
	}
	*s = size
	return nil
}
