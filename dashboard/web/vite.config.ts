import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// The admin API of `catena dev`, which `npm run dev` passes requests on to.
const admin = 'http://127.0.0.1:20081'

// The built files are committed and embedded into the binary: they depend on
// nothing but the sources and package-lock.json.
export default defineConfig({
  plugins: [react()],
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    sourcemap: false,
    target: 'es2022',
    assetsInlineLimit: 0, // the content security policy allows no data: URLs
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
  },
  server: { proxy: { '/api': admin } },
})
