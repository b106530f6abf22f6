package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// envScreenshots names a folder for pictures of every page, for people to look at.
const envScreenshots = "CATENA_TEST_SCREENSHOTS"

const dashboardPatience = 40 * time.Second

// findBrowser returns a Chromium or Chrome of this machine.
func findBrowser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if found, err := exec.LookPath(name); err == nil {
			return found
		}
	}
	const absent = "no chromium, chromium-browser or google-chrome on PATH: `make browser` installs one"
	if os.Getenv("CI") != "" {
		t.Fatal(absent) // where everything is to be checked, nothing is left out in silence
	}
	t.Skip(absent)
	return ""
}

// visitor sits at a browser.
type visitor struct {
	t   *testing.T
	ctx context.Context
	mu  sync.Mutex
	bad []string
}

func openVisitor(t *testing.T, browser string) *visitor {
	t.Helper()
	allocator, closeBrowser := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(browser), chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.WindowSize(1280, 900))
	t.Cleanup(closeBrowser)
	ctx, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	v := &visitor{t: t, ctx: ctx}
	// The first call starts the browser, which then lives as long as its context.
	_, err := chromedp.Call(ctx, log.Enable, cdp.Empty{})
	require.NoError(t, err)
	require.NoError(t, chromedp.Listen(ctx, v.listen))
	return v
}

// listen notes what a person would find in the browser's console.
func (v *visitor) listen(event any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		v.bad = append(v.bad, fmt.Sprintf("%s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
	case *log.EventEntryAdded:
		if e.Entry.Source == log.EntrySourceSecurity {
			v.bad = append(v.bad, e.Entry.Text)
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError {
			v.bad = append(v.bad, fmt.Sprintf("console.error %+v", e.Args))
		}
	}
}

func (v *visitor) complaints() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.bad
}

// do performs actions, each of which waits for its element.
func (v *visitor) do(actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, dashboardPatience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		v.give("cannot act: " + err.Error())
	}
}

// give ends the test with what the page shows.
func (v *visitor) give(why string) {
	v.t.Helper()
	page, _ := chromedp.Run(v.ctx, chromedp.Evaluate[string](`location.href + '\n' + document.body.innerText`))
	v.picture("failure")
	v.t.Fatalf("%s\ncomplaints: %q\nthe page:\n%s", why, v.complaints(), page)
}

// until waits for a JavaScript expression to be true. The page's own policy
// does not concern it.
func (v *visitor) until(expression string) {
	v.t.Helper()
	for deadline := time.Now().Add(dashboardPatience); ; {
		holds, err := chromedp.Run(v.ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if err == nil && holds {
			return
		}
		if time.Now().After(deadline) {
			v.give(fmt.Sprintf("never true: %s (%v)", expression, err))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (v *visitor) sees(text string) {
	v.t.Helper()
	v.until(`document.body.innerText.includes(` + quote(text) + `)`)
}

func (v *visitor) click(xpath string) {
	v.t.Helper()
	v.do(chromedp.Click(xpath, chromedp.NodeVisible))
}

func (v *visitor) follow(page string) {
	v.t.Helper()
	v.click(`//nav/a[.="` + page + `"]`)
	v.until(`document.querySelector('h1')?.innerText === ` + quote(page))
}

// write replaces what a field holds, as typing would.
func (v *visitor) write(field, text string) {
	v.t.Helper()
	v.do(chromedp.Focus(field, chromedp.NodeVisible), chromedp.Evaluate[chromedp.Void](`document.activeElement.select()`))
	_, err := chromedp.Call(v.ctx, input.InsertText, input.InsertTextParams{Text: text})
	require.NoError(v.t, err)
}

func (v *visitor) choose(field, value string) {
	v.t.Helper()
	v.do(chromedp.WaitVisible(field))
	v.until(fmt.Sprintf(`(() => {
		const field = document.querySelector(%s)
		if (![...field.options].some((o) => o.value === %s)) return false
		field.value = %s
		return field.dispatchEvent(new Event('change', { bubbles: true }))
	})()`, quote(field), quote(value), quote(value)))
}

func (v *visitor) runOnPage() uuid.UUID {
	v.t.Helper()
	path, err := chromedp.Run(v.ctx, chromedp.Location())
	require.NoError(v.t, err)
	id, err := uuid.Parse(path[strings.LastIndex(path, "/")+1:])
	require.NoError(v.t, err)
	return id
}

func (v *visitor) picture(name string) {
	dir := os.Getenv(envScreenshots)
	if dir == "" {
		return
	}
	for _, scheme := range []string{"light", "dark"} {
		_, err := chromedp.Call(v.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		require.NoError(v.t, err)
		png, err := chromedp.Run(v.ctx, chromedp.CaptureScreenshot())
		require.NoError(v.t, err)
		require.NoError(v.t, os.WriteFile(filepath.Join(dir, name+"-"+scheme+".png"), png, 0o600))
	}
}

func quote(text string) string {
	quoted, _ := json.Marshal(text)
	return string(quoted)
}
