package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/catena-run/catena/client"
	"github.com/catena-run/catena/devservers/servertest"
	"github.com/catena-run/catena/pkgstore"
	"github.com/catena-run/catena/task"
)

const dashboardTasks = `
name: shop/greet
description: says hello, slowly
chain:
  - call: shop:work?greet
    with: {name: "${params.name}"}
    as: greeting
  - delay: 1500ms
  - log: "it was ${steps.greeting.data.text}"
params: {name: world}
schedule: [{cron: "0 3 * * *", timezone: Europe/Berlin}]
---
name: shop/charge
description: fails in its second step
chain:
  - log: about to charge
  - call: shop:work?charge
    with: {card: none}
    as: charged
---
name: shop/tick
description: runs every second
chain: [{log: tick}]
schedule: [{cron: "* * * * * *"}]
---
name: shop/sleep
description: waits until it is cancelled
chain: [{log: sleeping}, {do: [{delay: 10m}]}]
`

const dashboardModule = `import { log } from "catena";
export async function greet(input: { name: string }) {
  log.info("greeting " + input.name);
  return { text: "hello " + input.name };
}
export async function charge(input: { card: string }) {
  log.warn("the card is " + input.card);
  throw new Error("the card was declined");
}
`

// TestDashboard is a person's session in a real browser, on a real `catena dev`.
func TestDashboard(t *testing.T) {
	t.Parallel()
	chrome := findBrowser(t)
	link := startDev(t)
	server, token, found := strings.Cut(link, "/#token=")
	require.True(t, found, link)
	c, err := client.New(client.Config{Server: server, Token: token})
	require.NoError(t, err)
	pushShop(t, c, dashboardModule)
	_, err = c.ApplyTasks(t.Context(), client.ApplyRequest{Files: []client.File{{Name: "shop.yaml", Content: dashboardTasks}}})
	require.NoError(t, err)
	v := openVisitor(t, chrome)

	v.refusesWrongToken(server)
	v.signsInByLink(link)
	v.runsTask(c)
	v.pausesAndResumes(c)
	v.seesFailure(c)
	v.cancelsRun(c, server)
	v.pagesThroughRuns(c, server)
	v.seesLedger(server)
	v.rollsBack(c)
	v.seesEveryPage(server)
	v.isSentBackToLogin(c, server)
	require.Empty(t, v.complaints(), "exceptions or breaches of the content security policy")
}

func (v *visitor) refusesWrongToken(server string) {
	v.do(chromedp.Navigate(server + "/tasks"))
	v.sees("Sign in")
	v.do(chromedp.SendKeys(`input[name=token]`, "wrong\n"))
	v.until(`document.querySelector('[role=alert]')?.innerText.includes('token')`)
	v.picture("login")
}

func (v *visitor) signsInByLink(link string) {
	server, token, _ := strings.Cut(link, "/#token=")
	v.do(chromedp.Navigate(link)) // the same document: only the fragment changes
	v.until(`location.href === ` + quote(server+"/"))
	v.sees("Workers")
	v.until(`document.querySelectorAll('[aria-label=Workers] tbody tr').length === 1`)
	v.until(`document.querySelector('[aria-label=Workers] [data-state=active]')`)
	v.until(`document.querySelectorAll('.checks li.ok').length >= 5`)
	v.until(`sessionStorage.getItem('catena.token') === ` + quote(token) + ` && localStorage.length === 0`)
}

func (v *visitor) runsTask(c *client.Client) {
	v.follow("Tasks")
	v.until(`document.querySelector('[data-task="shop/greet"]')?.innerText.includes('in ')`) // the next due time
	v.click(`//button[@aria-label="Run shop/greet"]`)
	v.write("dialog textarea", `{"name": `)
	v.until(`document.querySelector('dialog .primary').disabled && document.querySelector('dialog .problem').innerText`)
	v.write("dialog textarea", `{"name": "Ada"}`)
	v.until(`!document.querySelector('dialog .primary').disabled`)
	v.picture("run-dialog")
	v.click(`//button[.="Run now"]`)
	v.until(`location.pathname.startsWith('/runs/')`)
	v.until(`document.querySelector('[role=log]')?.innerText.includes('greeting Ada')`)
	v.until(`document.querySelector('h1 [data-state=succeeded]')`)
	v.until(`document.querySelector('[role=log]').innerText.includes('it was hello Ada')`)
	v.until(`document.querySelectorAll('[aria-label=Steps] [data-state=succeeded]').length === 3`)
	run, err := c.Run(v.t.Context(), v.runOnPage())
	require.NoError(v.t, err)
	require.Equal(v.t, task.StateSucceeded, run.State)
	require.JSONEq(v.t, `{"name":"Ada"}`, string(run.Params))
	v.picture("run")
}

func (v *visitor) pausesAndResumes(c *client.Client) {
	paused := func(want bool) task.Task {
		got, err := c.Task(v.t.Context(), "shop/greet")
		require.NoError(v.t, err)
		require.Equal(v.t, want, got.Paused)
		return got
	}
	v.follow("Tasks")
	v.click(`//button[@aria-label="Pause shop/greet"]`)
	v.write("dialog input[name=note]", "stock taking")
	v.picture("pause-dialog")
	v.click(`//dialog//button[.="Pause"]`)
	v.until(`document.querySelector('[data-task="shop/greet"]').innerText.includes('stock taking')`)
	require.Equal(v.t, "stock taking", paused(true).Note)
	v.picture("paused")
	v.click(`//button[@aria-label="Resume shop/greet"]`)
	v.until(`document.querySelector('[data-task="shop/greet"] [data-state=ready]')`)
	paused(false)
}

func (v *visitor) seesFailure(c *client.Client) {
	started, err := c.StartRun(v.t.Context(), "shop/charge", client.RunRequest{})
	require.NoError(v.t, err)
	v.follow("Runs")
	v.choose("select[aria-label=State]", "failed")
	v.until(`location.search === '?state=failed'`)
	v.sees("the card was declined")
	v.click(`//a[@title="` + started.ID.String() + `"]`)
	v.until(`document.querySelector('.reason.bad')?.innerText.includes('the card was declined')`)
	v.until(`document.querySelector('.stack').innerText.includes('work.ts:8')`)
	v.until(`document.querySelector('[role=log]')?.innerText.includes('the card is none')`)
	v.picture("failed")
	v.click(`//button[.="Retry"]`)
	v.choose("dialog select[name=from]", "1")
	v.click(`//dialog//button[.="Retry"]`)
	require.Eventually(v.t, func() bool {
		lines, err := c.Logs(v.t.Context(), started.ID, 0, 0)
		return err == nil && strings.Count(fmt.Sprint(lines), "the card is none") == 2 && strings.Count(fmt.Sprint(lines), "about to charge") == 1
	}, dashboardPatience, 50*time.Millisecond, "only the chosen step goes again")
}

func (v *visitor) cancelsRun(c *client.Client, server string) {
	started, err := c.StartRun(v.t.Context(), "shop/sleep", client.RunRequest{})
	require.NoError(v.t, err)
	v.do(chromedp.Navigate(server + "/runs/" + started.ID.String()))
	v.until(`document.querySelector('[role=log]')?.innerText.includes('sleeping') && document.querySelector('.live')`)
	v.click(`//button[.="Cancel"]`)
	v.write("dialog input[name=reason]", "enough of it")
	v.click(`//dialog//button[.="Cancel the run"]`)
	v.until(`document.querySelector('h1 [data-state=cancelled]') && document.querySelector('.reason').innerText.includes('cancelled')`)
	v.until(`!document.querySelector('.live')`)
}

func (v *visitor) pagesThroughRuns(c *client.Client, server string) {
	const more = 55 // beside the one of seesFailure; a page has 50
	_, err := c.StartRuns(v.t.Context(), "shop/charge", make([]client.RunRequest, more))
	require.NoError(v.t, err)
	v.do(chromedp.Navigate(server + "/runs?task=shop%2Fcharge"))
	rows := `document.querySelectorAll('[aria-label=Runs] tbody tr').length`
	v.until(rows + ` === 50`)
	v.click(`//button[.="Older"]`)
	v.until(rows + ` === 6 && location.search.includes('before=')`)
	v.click(`//button[.="Newest"]`)
	v.until(rows + ` === 50 && !location.search.includes('before=')`)
}

func (v *visitor) seesLedger(server string) {
	v.do(chromedp.Navigate(server + "/tasks/shop/tick"))
	v.until(`document.querySelectorAll('[aria-label="Due times"] [data-state=started]').length >= 2`)
	v.until(`document.querySelector('[aria-label="Due times"] a[href^="/runs/"]')`)
}

func (v *visitor) rollsBack(c *client.Client) {
	first, err := c.Package(v.t.Context(), "shop", client.PackageSelector{})
	require.NoError(v.t, err)
	pushShop(v.t, c, dashboardModule+"// second version\n")
	v.follow("Packages")
	v.click(`//a[.="shop"]`)
	v.until(`document.querySelectorAll('[aria-label=Versions] tbody tr').length === 2`)
	v.picture("package")
	v.click(`//button[.="Roll back"]`)
	v.click(`//dialog//button[.="Roll back"]`)
	v.until(`document.querySelector('[aria-label=Releases] tbody tr [data-state=rollback]')`)
	now, err := c.Package(v.t.Context(), "shop", client.PackageSelector{})
	require.NoError(v.t, err)
	require.Equal(v.t, first.Digest, now.Digest)
}

// seesEveryPage opens each by its address, as a bookmark does. The page must
// not be wider than the window, not even a telephone's.
func (v *visitor) seesEveryPage(server string) {
	for _, one := range []struct{ name, path, text string }{
		{"overview", "/", "Runs of the last hour"},
		{"tasks", "/tasks", "shop/charge"},
		{"task", "/tasks/shop/greet", "Europe/Berlin"},
		{"runs", "/runs?task=shop%2Fgreet", "succeeded"},
		{"packages", "/packages", "Live version"},
		{"missing", "/nowhere", "There is no such page"},
		{"missing-task", "/tasks/shop/none", "what to do:"},
	} {
		v.do(chromedp.Navigate(server + one.path))
		v.sees(one.text)
		v.until(`!document.querySelector('.loading')`)
		v.picture(one.name)
		v.do(chromedp.EmulateViewport(375, 800))
		v.until(`document.documentElement.scrollWidth <= 375`)
		v.picture(one.name + "-narrow")
		v.do(chromedp.EmulateViewport(1280, 900))
	}
}

// isSentBackToLogin loses its token and comes back with the link of another.
func (v *visitor) isSentBackToLogin(c *client.Client, server string) {
	old, err := c.Tokens(v.t.Context())
	require.NoError(v.t, err)
	second, err := c.CreateToken(v.t.Context(), client.TokenRequest{Name: "second", Role: "admin"})
	require.NoError(v.t, err)
	v.do(chromedp.Navigate(server + "/runs"))
	v.until(`document.querySelector('[aria-label=Runs] tbody tr')`)
	for _, one := range old {
		require.NoError(v.t, c.RevokeToken(v.t.Context(), one.ID))
	}
	v.until(`document.querySelector('input[name=token]') && document.querySelector('[role=alert]')?.innerText.includes('revoked')`)
	v.until(`sessionStorage.length === 0`)
	v.do(chromedp.Navigate(server + "/runs#token=" + second.Token))
	v.until(`document.querySelector('[aria-label=Runs] tbody tr')`)
	v.until(`location.href === ` + quote(server+"/runs") + ` && sessionStorage.getItem('catena.token') === ` + quote(second.Token))
}

// startDev runs the program as a person would and returns the link that it prints.
func startDev(t *testing.T) string {
	t.Helper()
	env := []string{"CATENA_POSTGRES_URL=" + servertest.PostgresURL(t), "CATENA_REDIS_URL=" + servertest.Redis(t)}
	dev := start(t, "dev", env, "dev", "--data", filepath.Join(servertest.Dir(t), "data"), "--admin", "127.0.0.1:0", "--http", "127.0.0.1:0", "--workers", "1")
	t.Cleanup(func() {
		dev.signal(t, syscall.SIGTERM)
		require.Zero(t, dev.ended(t, time.Minute), dev.log.tail(40))
	})
	line := regexp.MustCompile(`dashboard +(http://\S+)`)
	var link []string
	require.Eventually(t, func() bool {
		for _, one := range dev.log.find("dashboard") {
			link = line.FindStringSubmatch(one.text)
		}
		return link != nil
	}, time.Minute, 20*time.Millisecond, "the ready text has no link")
	return link[1]
}

func pushShop(t *testing.T, c *client.Client, module string) {
	t.Helper()
	dir := t.TempDir()
	manifest := "name: shop\ndescription: sells things\nexports: [\"work?greet\", \"work?charge\"]\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, pkgstore.ManifestFile), []byte(manifest), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "work.ts"), []byte(module), 0o600))
	content, err := pkgstore.ReadDir(dir, pkgstore.Limits{})
	require.NoError(t, err)
	var archive bytes.Buffer
	require.NoError(t, content.WriteArchive(&archive))
	_, err = c.Push(t.Context(), &archive, "")
	require.NoError(t, err)
}
