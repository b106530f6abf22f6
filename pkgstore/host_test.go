package pkgstore

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestUnknownNamesOfTheHostAPIAreRefused(t *testing.T) {
	t.Parallel()
	err := refused(t, nil, "catena.yaml", "name: a\n", "a.ts", "import { log,\n  htpp } from \"catena\";\nexport const main = () => { log(1); return htpp.get(`x`) }")
	require.EqualError(t, err, `a.ts:2:3: "catena" has no htpp; did you mean http?`)
	err = refused(t, nil, "catena.yaml", "name: a\n", "a.ts", `import { secrets } from "catena"; export const main = () => secrets`)
	require.ErrorContains(t, err, `"catena" has no secrets; it has http, log, now, sleep`)
	made(t, nil, "catena.yaml", "name: a\n", "a.ts", `import catena, { http as h, log } from "catena"; import * as all from "catena"; export const main = () => [catena, h, log, all.log]`)
}

func TestAPackageHoldsTextOnly(t *testing.T) {
	t.Parallel()
	for _, data := range []string{"\x89PNG\r\n", "a\x00b"} {
		err := refused(t, nil, "catena.yaml", "name: a\n", "a.ts", "export const main = () => 1", "logo.png", data)
		require.ErrorContains(t, err, "logo.png: the file is not text; a package holds text only")
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, ManifestFile), []byte("name: a\n"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "logo.png"), []byte(data), 0o600))
		_, err = ReadDir(dir, Limits{})
		require.ErrorContains(t, err, "logo.png: the file is not text")
	}
}
